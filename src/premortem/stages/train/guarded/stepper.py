"""One optimiser step that a bad gradient cannot reach (kernel decision 9).

Where the flag is on the host, a skip calls nothing at all: not the optimiser, the scheduler, the EMA, the
filter. It is bit-identical for every optimiser by construction, not by trusting a flag inside a kernel.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from premortem.stages.train.distributed.peers import ALONE, Peers
from premortem.stages.train.guarded.buffers import Buffers
from premortem.stages.train.guarded.checks import require_lbfgs_alone, require_loss
from premortem.stages.train.guarded.gradients import all_finite, awaited, clip, gradients, total_norm
from premortem.stages.train.guarded.settings import NumberSetting, Softening, WarmUp

OVERFLOW = "the scaler overflowed"


class Schedule(Protocol):
    """Anything stepped once after each applied optimiser step."""

    def step(self) -> None: ...


class Average(Protocol):
    """A weight average, updated once after each applied optimiser step."""

    def update(self, model: nn.Module) -> None: ...


class GradientFilter(Protocol):
    """Changes gradients in place between backward and the optimiser; ``lamb`` is its strength."""

    lamb: float

    def apply(self, model: nn.Module) -> None: ...


@dataclass(frozen=True, slots=True)
class Stepped:
    """What one step did. ``grad_norm`` is the norm before filter and clipping; ``why`` it was not applied."""

    loss: float
    grad_norm: float | None
    applied: bool
    why: str = ""


@dataclass(slots=True)
class Companions:
    """What moves with the optimiser, and is left alone when it is."""

    scheduler: Schedule | None = None
    scaler: torch.amp.GradScaler | None = None
    ema: Average | None = None
    gradient_filter: GradientFilter | None = None


class Stepper:
    """Backward, finite check, filter, clip, optimiser, scheduler, average: in that order or not at all."""

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, companions: Companions, *,
        max_norm: float = math.inf, accumulate: int = 1, peers: Peers = ALONE,
    ) -> None:  # fmt: skip
        self.model = model
        self.optimizer = optimizer
        self.with_ = companions
        self.accumulate = accumulate
        self.peers = peers
        if self.needs_closure:
            require_lbfgs_alone(accumulate=accumulate, has_scaler=companions.scaler is not None)
        self.lr_factor = NumberSetting(1.0)
        self.warm_up = WarmUp()
        self.max_norm = NumberSetting(max_norm)
        self.softening = Softening()
        self.gate = math.inf
        """A norm above it never reaches the weights; set by the run from the healthy baseline."""
        self.used_lr_factor: float | None = None
        self.used_warm_up: float | None = None
        self._pending: list[Tensor] = []
        self._buffers = Buffers(model)
        # the model's own order: the norm is then bit-identical to clip_grad_norm_(model.parameters())
        in_model = list(model.parameters())
        known = {id(p) for p in in_model}
        held = [p for g in optimizer.param_groups for p in g["params"]]
        self._parameters = in_model + [p for p in held if id(p) not in known]

    @property
    def needs_closure(self) -> bool:
        """LBFGS evaluates the loss itself."""
        return isinstance(self.optimizer, torch.optim.LBFGS)

    def backward(self, loss: Tensor) -> Stepped | None:
        """Add one micro-batch's gradient; steps at every ``accumulate``-th and returns ``None`` before.

        ``loss`` is a scalar mean over the micro-batch.

        Raises:
            ConfigError: for a loss that is no scalar tensor, or has no graph.
        """
        self.count(self.add(loss))
        return self.finish_if_complete()

    def add(self, loss: Tensor, share: float = 1.0) -> Tensor:
        """Add the gradient of a piece of a micro-batch, weighted by its share; its loss, weighted too and detached.

        Raises:
            ConfigError: for a loss that is no scalar tensor, or has no graph.
        """
        require_loss(loss)
        weighted = loss if share == 1.0 else loss * share
        scaled = weighted / self.accumulate if self.accumulate > 1 else weighted
        scaler = self.with_.scaler
        (scaled if scaler is None else scaler.scale(scaled)).backward()  # type: ignore[no-untyped-call]
        return weighted.detach()

    def count(self, loss: Tensor) -> None:
        """A whole micro-batch was added; ``loss`` is its mean, detached."""
        self._pending.append(loss)

    @property
    def num_pending(self) -> int:
        """Micro-batches of the present step that were added so far."""
        return len(self._pending)

    @property
    def is_complete(self) -> bool:
        """Whether the step has all of its micro-batches."""
        return len(self._pending) >= self.accumulate

    def finish_if_complete(self) -> Stepped | None:
        """The optimiser's step, after the last micro-batch; ``None`` before."""
        if not self.is_complete:
            return None
        losses, self._pending = self._pending, []
        return self.finish(losses, self._step)

    def put_back_buffers(self) -> None:
        """Undo what the present step's forward passes did to the buffers."""
        self._buffers.put_back()

    def renewed(self) -> None:
        """The model has new memory: what was remembered of its buffers lay in the old one."""
        self.let_go()
        self._buffers = Buffers(self.model)

    def close_over(self, loss: Callable[[], Tensor]) -> Stepped:
        """One step of an optimiser that evaluates the loss itself (LBFGS), on a copy that can be put back.

        Raises:
            Nothing of its own: a non-finite evaluation puts weights and state back and is reported.
        """
        before = [p.detach().clone() for p in self._parameters]
        state = copy.deepcopy(self.optimizer.state_dict())
        seen: list[float] = []
        norms: list[float] = []

        def closure() -> Tensor:
            self.optimizer.zero_grad(set_to_none=True)
            value = loss()
            require_loss(value)
            value.backward()  # type: ignore[no-untyped-call]
            value_now, norm = awaited([value.detach(), total_norm(gradients(self._parameters))])
            seen.append(value_now)
            norms.append(norm)
            if not (math.isfinite(seen[-1]) and math.isfinite(norms[-1])):
                raise _NotFinite
            return value

        try:
            self._with_learning_rate(lambda: self.optimizer.step(closure))  # type: ignore[arg-type]
            sound = all_finite(self._parameters)
        except _NotFinite:
            sound = False
        self.let_go()
        if sound:
            self._after()
            return Stepped(seen[0], norms[0], True)
        with torch.no_grad():
            for parameter, value in zip(self._parameters, before, strict=True):
                parameter.copy_(value)
        self.optimizer.load_state_dict(state)
        self._buffers.put_back()
        self.used_lr_factor = None
        bad = next((n for n in norms if not math.isfinite(n)), math.nan)
        return Stepped(seen[0] if seen else math.nan, bad, False, "not finite")

    def weights_are_finite(self) -> bool:
        """Scan every parameter and floating-point buffer of the model."""
        return all_finite(self._state_tensors())

    def _state_tensors(self) -> Iterable[Tensor]:
        yield from (p.detach() for p in self.model.parameters())
        yield from self.model.buffers()

    def finish(self, losses: list[Tensor], step: Callable[[], object]) -> Stepped:
        """Judge the gradients that are there; filter, clip and ``step`` with them, or skip.

        ``losses`` are those of the step's micro-batches; ``step`` calls the optimiser and nothing else.
        """
        scaler = self.with_.scaler
        if scaler is not None:
            scaler.unscale_(self.optimizer)
        grads = gradients(self._parameters)
        norm = total_norm(grads)
        # on an accelerator: the one awaited transfer a step, declared in the report
        *seen, size = awaited([*losses, norm])
        loss, size = self.peers.judge(sum(seen) / len(seen) if seen else math.nan, size)
        if not math.isfinite(loss) or not math.isfinite(size):
            return self._skip(loss, size, "not finite")
        if size > self.gate:
            return self._skip(loss, size, f"gradient norm above {self.gate:.4g}")
        if self.with_.gradient_filter is not None:
            self._filter(self.with_.gradient_filter)
            grads = gradients(self._parameters)
            norm = total_norm(grads) if math.isfinite(self.max_norm.value) else norm
        if math.isfinite(self.max_norm.value):
            clip(grads, norm, self.max_norm.value)
        self._with_learning_rate(step)
        self.let_go()  # the model's gradients too that the optimiser does not hold: they would add up
        self._after()
        return Stepped(loss, size, True)

    def _step(self) -> None:
        scaler = self.with_.scaler
        if scaler is None:
            self.optimizer.step()
        else:
            scaler.step(self.optimizer)
            scaler.update()

    def _skip(self, loss: float, size: float, why: str) -> Stepped:
        scaler = self.with_.scaler
        overflow = scaler is not None and scaler.is_enabled() and math.isfinite(loss) and not math.isfinite(size)
        if scaler is not None:
            # unscale_ noted the overflow, so the scale goes down; scaler.step might call a fused optimiser
            scaler.update()
        self.let_go()
        self.used_lr_factor = None
        if overflow:
            return Stepped(loss, None, False, OVERFLOW)  # the scaler's own trade, as in a run without a guard
        self._buffers.put_back()
        return Stepped(loss, size, False, why)

    def let_go(self) -> None:
        """Drop what the present step has gathered: gradients and losses."""
        self._pending.clear()
        for parameter in self._parameters:
            parameter.grad = None

    def forget(self) -> None:
        """Weights were put back from a bundle: gradients and remembered buffers are another model's."""
        self.let_go()
        self._buffers.remember()

    def _filter(self, gradient_filter: GradientFilter) -> None:
        strength = gradient_filter.lamb
        gradient_filter.lamb = strength * self.softening.value
        try:
            gradient_filter.apply(self.model)
        finally:
            gradient_filter.lamb = strength

    def _with_learning_rate(self, step: Callable[[], Any]) -> None:
        """Apply the factor around the step: a value written to ``group['lr']`` is lost under LambdaLR."""
        factor = self.lr_factor.value * self.warm_up.factor
        self.used_lr_factor, self.used_warm_up = self.lr_factor.value, self.warm_up.value
        if factor == 1.0:
            step()
            return
        groups = self.optimizer.param_groups
        scheduled = [group["lr"] for group in groups]
        try:
            for group in groups:
                group["lr"] = group["lr"] * factor
            step()
        finally:
            for group, rate in zip(groups, scheduled, strict=True):
                group["lr"] = rate

    def _after(self) -> None:
        self.warm_up.applied += 1
        self._buffers.remember()
        if self.with_.scheduler is not None:
            self.with_.scheduler.step()
        if self.with_.ema is not None:
            self.with_.ema.update(self.model)


class _NotFinite(Exception):  # noqa: N818 - a signal inside the closure, never seen outside
    pass
