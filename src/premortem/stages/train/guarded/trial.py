"""A trial on few samples before a batch is trusted: what a sample takes, and whether pieces add up to the whole.

It leaves no trace: gradients are dropped, buffers and random streams put back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from premortem.stages.train.guarded.failures import classify
from premortem.stages.train.guarded.fit import Fit, predicted
from premortem.stages.train.guarded.forward import Forward, LossFn
from premortem.stages.train.guarded.gauge import Gauge, Look
from premortem.stages.train.guarded.pieces import Size
from premortem.stages.train.guarded.rewind import RandomMoment
from premortem.stages.train.guarded.splitting import CannotSplit, split
from premortem.stages.train.guarded.stepper import Stepper

_TELLING = 4 << 20
"""A pass that takes fewer bytes hides behind what malloc holds; the next one takes twice the samples."""
_EASY = 0.5
_EXACT, _COARSE = 1e-3, 3e-2


class Trial:
    """Runs passes over a batch's first samples; ``shares`` weighs pieces as the run will."""

    def __init__(
        self, stepper: Stepper, gauge: Gauge, forward: Forward, fit: Fit,
        shares: Callable[[Any, list[int]], list[float]], report: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._stepper = stepper
        self._gauge = gauge
        self._forward = forward
        self._fit = fit
        self._shares = shares
        self._report = report
        self._why_no_mean: str | None = None
        model = stepper.model
        self._model_bytes = sum(p.numel() * p.element_size() for p in model.parameters())

    @property
    def has_batch_norm(self) -> bool:
        """Whether a layer computes over the samples of a batch."""
        return any(isinstance(m, _BatchNorm) and m.training for m in self._stepper.model.modules())

    @property
    def least(self) -> int:
        """Samples that a piece must have: a batch norm has no statistics of one."""
        return 2 if self.has_batch_norm else 1

    def is_wanted(self, look: Look, samples: int) -> bool:
        """Nothing is measured yet, and a limit is set or the rule of thumb comes near what there is.

        Where too much memory raises for certain, the first exception is cheaper than a trial in every run.
        """
        if self._stepper.num_pending or len(self._fit.points) > 1 or samples < 2:
            return False
        if self._fit.has_failed:
            return True
        if self._fit.points or self._gauge.raises:
            return False
        return look.is_set or predicted(self._model_bytes, samples) > _EASY * look.left

    def is_possible(self, size: Size, samples: int) -> bool:
        """Whether no pass as small as so many samples was measured yet, and the step has not begun."""
        smallest = self._fit.smallest_measured
        return not self._stepper.num_pending and size.samples > 1 and (not smallest or size.of(samples) < smallest)

    def run(self, loss_fn: LossFn, batch: Any, size: Size) -> None:
        """Passes over 1, 2, 4, … samples, until one tells what a sample takes or a larger one would be a risk."""
        samples, former = self.least, 0
        while samples < size.samples:
            grown = self._measure(loss_fn, batch, size, samples)
            look = self._gauge.look()
            if grown is None or look is None:
                return
            whole = grown * size.samples / samples
            is_clear = grown >= _TELLING and (whole <= _EASY * look.left or former > 0)
            if is_clear or 2 * grown + _TELLING > look.left / 2:
                return
            samples, former = 2 * samples, grown if grown >= _TELLING else 0

    def _measure(self, loss_fn: LossFn, batch: Any, size: Size, samples: int) -> int | None:
        """Bytes of one pass; ``None`` where it ran out of memory or cannot be measured."""
        piece = next(split(batch, [samples, size.samples - samples]))
        moment = RandomMoment()
        self._gauge.tidy()
        self._gauge.begin()
        grown = None
        try:
            self._forward(loss_fn, piece).backward()  # type: ignore[no-untyped-call]
            grown = self._gauge.grown()
        except Exception as error:
            if classify(error) is None:  # the run itself may never ask for so few: the guard must not break it
                self._report(f"a trial on {samples} samples failed, nothing is known beforehand: {error}")
        finally:
            self._stepper.let_go()
            self._stepper.put_back_buffers()
            moment.put_back()
        if grown is not None:
            self._fit.measured(size.of(samples), grown)
        return grown

    def why_no_mean(self, loss_fn: LossFn, batch: Any, size: Size) -> str:
        """Why pieces would change the gradient: the losses of two samples do not average to that of both.

        Asked once, in evaluation mode (no dropout, no statistics of the batch); empty where they do.
        """
        if self._why_no_mean is None:
            self._why_no_mean = self._compare(loss_fn, batch, size)
        return self._why_no_mean

    def _compare(self, loss_fn: LossFn, batch: Any, size: Size) -> str:
        rest = size.samples - 2
        try:
            both = next(split(batch, [2, rest])) if rest else batch
            shares = self._shares(both, [1, 1])
            with self._aside():
                together = self._loss(loss_fn, both)
                pieces = [self._loss(loss_fn, piece) for piece in split(both, [1, 1])]
        except CannotSplit as why:
            return f"a batch cannot be taken in pieces: {why}"
        except Exception as error:
            if classify(error) is not None:
                return ""  # no room to ask: the pieces are needed all the more
            self._report(f"whether pieces add up to the whole could not be tried in evaluation mode: {error}")
            return ""
        apart = sum(share * float(loss) for share, loss in zip(shares, pieces, strict=True) if share)
        whole = float(together)
        tolerance = _EXACT if together.dtype in (torch.float32, torch.float64) else _COARSE
        if math.isclose(apart, whole, rel_tol=tolerance, abs_tol=1e-6) or not math.isfinite(whole + apart):
            return ""
        return (
            f"a batch is not taken in pieces: the losses of two samples make {apart:.6g}, that of both is {whole:.6g}; "
            "let loss_fn return a mean over samples, or give weigh= what it is a mean over (tokens)"
        )

    def _loss(self, loss_fn: LossFn, piece: Any) -> Tensor:
        return self._forward(loss_fn, piece).detach()

    @contextmanager
    def _aside(self) -> Iterator[None]:
        modules: list[nn.Module] = [m for m in self._stepper.model.modules() if m.training]
        moment = RandomMoment()
        for module in modules:
            module.training = False
        try:
            with torch.no_grad():
                yield
        finally:
            for module in modules:
                module.training = True
            moment.put_back()
