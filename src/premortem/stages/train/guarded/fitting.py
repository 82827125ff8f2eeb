"""Takes each micro-batch of the second form in as large pieces as fit into memory, with the gradient unchanged.

The mean loss of the batch is the sum of the pieces' mean losses, each weighted by its share of the batch: of its
samples, or of what ``weigh`` counts (tokens). What fits is known from measured passes. Where too much memory raises
an exception the step is put back and taken again in pieces; where the kernel would kill without one, a batch that is
not going to fit is split before its forward pass.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from torch import Tensor

from premortem.stages.train.guarded.failures import Failure
from premortem.stages.train.guarded.fit import Fit
from premortem.stages.train.guarded.forward import Forward
from premortem.stages.train.guarded.gauge import Gauge, Look
from premortem.stages.train.guarded.pieces import PieceCap, Size, Taken
from premortem.stages.train.guarded.splitting import CannotSplit, evenly, num_elements, num_samples, split
from premortem.stages.train.guarded.stepper import Stepper
from premortem.stages.train.guarded.trial import Trial
from premortem.stages.train.guarded.trying import MicroBatch, NoRoom

Weigh = Callable[[Any], float]
HEADROOM = 0.12
"""Of what the limit leaves stays free: 10 % (AF-1.3), and something for what a prediction is off."""
_PACE = 300.0
"""Reading memory may take one part in so many of a run far from its limit."""
_AT_LEAST_EVERY = 4
"""Passes; what grows from step to step must be seen before it is too late, however short a step is."""
_NEAR = 0.6
_SOON = 1 / 32
"""Of what is left: use that rises so much from one look to the next comes near the limit in time, if not in bytes."""
_PATIENCE = 64
"""Steps in a row without room until the exception goes on as it came."""


class Fitting:
    """Decides how each micro-batch is taken, measures what it took, and answers exceptions for want of memory."""

    def __init__(
        self, stepper: Stepper, gauge: Gauge, forward: Forward, *,
        weigh: Weigh | None, why_whole: str, report: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.may_give_up = False
        """Whether a step without room is given up, for a ladder to answer; else it is tried as it is."""
        self.gauge = gauge
        self.fit = Fit()
        self.cap = PieceCap()
        self.taken = Taken()
        self.look: Look | None = None
        self._stepper = stepper
        self._forward = forward
        self._weigh = weigh
        self._why_whole = why_whole
        self._report = report
        self._trial = Trial(stepper, gauge, forward, self.fit, self._shares, report)
        self._due = 0.0
        self._spent = 0.0
        self._is_near = True
        self._is_rising = False
        self._now: tuple[int, float] | None = None
        self._no_room = 0
        self._passes = 0
        self._smallest = 1

    # --- what Trying calls -------------------------------------------------------------------

    def take(self, micro: MicroBatch) -> Tensor:
        """Forward and backward of one micro-batch, in one piece or several; its mean loss, detached.

        Raises:
            NoRoom: when not even one sample is going to fit.
        """
        self.taken.cap, self.cap.acts = self.cap.value, True
        size = self._size(micro.batch)
        pieces = self._plan(micro, size)
        self.taken.pieces = max(self.taken.pieces or 0, len(pieces))
        if len(pieces) == 1:
            return self._pass(micro, micro.batch, size.elements, 1.0)
        self._report_norms()
        shares = self._shares(micro.batch, pieces)
        total: Tensor | None = None
        for samples, share, piece in zip(pieces, shares, split(micro.batch, pieces), strict=True):
            if share > 0.0:  # a piece without a token has no mean loss
                loss = self._pass(micro, piece, size.of(samples), share)
                total = loss if total is None else total + loss
        assert total is not None
        return total

    def answer(self, failure: Failure) -> Callable[[], None] | None:
        """After an exception for want of memory: remember what did not fit, give back what can be; then plan anew."""
        self.taken.ooms += 1
        is_single = self._now is not None and self._now[0] <= self._smallest
        if self._no_room >= _PATIENCE or (is_single and not self.may_give_up):
            return None
        return self._after_failure

    def not_ours(self) -> None:
        """A step of the first form: its forward pass was not ours to split or measure."""
        self.cap.acts = False
        self._observe(None)

    def look_again(self) -> None:
        """What was seen of memory no longer holds: the next pass looks first."""
        self._due = 0.0

    def forget(self) -> None:
        """Passes are other ones from now on: recomputed, of another precision, on another device."""
        self.fit.forget()

    # --- planning ----------------------------------------------------------------------------

    def _size(self, batch: Any) -> Size:
        try:
            if self._why_whole:
                raise CannotSplit(self._why_whole)
            size = Size(num_samples(batch), num_elements(batch))
        except CannotSplit as why:
            size = Size(1, 1, str(why))
        self._smallest = size.of(1)
        return size

    def _plan(self, micro: MicroBatch, size: Size) -> list[int]:
        former = self.look
        look = self._observe(size.elements)
        if look is None:
            return self._blind(size)
        if former is not None and look is not former:
            self._is_rising = look.used - former.used > _SOON * look.left
        if self._trial.is_wanted(look, size.samples):
            self._trial.run(micro.loss_fn, micro.batch, size)
            look = self._observe(size.elements, again=True) or look
        most = self._most(size)
        largest = self._largest(look, most, size)
        if largest < most:
            self._is_near = True
            look, largest = self._trimmed(micro, look, most, size)
        self._note_need(look, size, most if math.isinf(self.cap.value) else max(1, largest))
        return self._pieces(micro, size, look, min(most, largest))

    def _trimmed(self, micro: MicroBatch, look: Look, most: int, size: Size) -> tuple[Look, int]:
        """What fits once free pages were given back, and smaller passes were measured where none was."""
        self.gauge.trim()
        look = self._observe(size.elements, again=True) or look
        largest = self._largest(look, most, size)
        if largest < most and self._trial.is_possible(size, max(1, largest)):
            self._trial.run(micro.loss_fn, micro.batch, size)
            look = self._observe(size.elements, again=True) or look
            largest = self._largest(look, most, size)
        return look, largest

    def _pieces(self, micro: MicroBatch, size: Size, look: Look, most: int) -> list[int]:
        if most < 1:
            self.gauge.tidy()  # garbage is a rung's to collect: done unasked it would hide what leaves it behind
            look = self._observe(size.elements, again=True) or look
            # where too much raises, what was predicted is no reason to give up: only a pass that failed is
            is_hopeless = self.fit.has_failed if self.gauge.raises or look.raises else True
            if is_hopeless and not self.fit.fits(size.of(1), look.left):
                self._give_up()
            most = 1  # the headroom is touched, and one sample still fits: better slow than lost
        if most >= size.samples:
            if size.why_not and not math.isinf(self.cap.value):
                self._report(f"a batch cannot be taken in pieces: {size.why_not}")
            return [size.samples]
        why = self._trial.why_no_mean(micro.loss_fn, micro.batch, size)
        if why:
            self._report(why)
            if not self.fit.fits(size.elements, look.left):
                self._give_up()
            return [size.samples]
        return evenly(size.samples, most, self._trial.least)

    def _give_up(self) -> None:
        if self.may_give_up and self._no_room < _PATIENCE:
            self._no_room += 1
            self.taken.ooms += 1
            raise NoRoom

    def _blind(self, size: Size) -> list[int]:
        """Nothing can be read of memory: only what failed before is known."""
        most = self._most(size)
        return evenly(size.samples, self._largest(Look(0, 1 << 62, "", False), most, size) or 1)

    def _most(self, size: Size) -> int:
        return size.samples if math.isinf(self.cap.value) else max(1, min(size.samples, int(self.cap.value)))

    def _largest(self, look: Look, most: int, size: Size) -> int:
        return self.fit.largest((1.0 - HEADROOM) * look.left, most, size.of)

    def _note_need(self, look: Look, size: Size, samples: int) -> None:
        self.taken.held = self.taken.held or look
        need = self.fit.need(size.of(samples))
        if need is not None:
            share = need / max(1, look.left)
            self.taken.need_share = max(share, self.taken.need_share or 0.0)

    def _shares(self, batch: Any, pieces: list[int]) -> list[float]:
        if self._weigh is None:
            weights = [float(n) for n in pieces]
        else:
            weights = [float(self._weigh(piece)) for piece in split(batch, pieces)]
        total = sum(weights)
        return [w / total for w in weights] if total > 0.0 else [1.0 / len(pieces)] * len(pieces)

    def _report_norms(self) -> None:
        if self._trial.has_batch_norm:
            self._report("a batch norm sees each piece by itself: a batch in pieces has other statistics than a whole")

    # --- measuring ---------------------------------------------------------------------------

    def _pass(self, micro: MicroBatch, piece: Any, elements: int, share: float) -> Tensor:
        before = self._observe(elements)
        is_tight = before is not None and not self.fit.fits(elements, (1.0 - HEADROOM) * before.left)
        if is_tight:
            self.gauge.trim()
            before = self._observe(elements, again=True)
        self._now = (elements, math.inf if before is None else before.left)
        is_measured, is_new = self._is_due(elements), elements > self.fit.largest_measured
        self._passes += 1  # only now: a pass that is measured is one before which memory was looked at
        if is_measured:
            if is_new:  # tidying comes once a size, so it is no part of what a look costs
                self.gauge.tidy()  # pages that malloc holds for later would hide what a pass takes
                before = self._observe(elements, again=True)
            began = time.perf_counter()
            self.gauge.begin()
            self._spent += time.perf_counter() - began
        loss = self._stepper.add(self._forward(micro.loss_fn, piece), share)
        if is_measured:
            self._measured(before, elements, exact=is_new or is_tight)
        self._now, self._no_room = None, 0
        return loss

    def _measured(self, before: Look | None, elements: int, *, exact: bool) -> None:
        began = time.perf_counter()
        grown = self.gauge.grown()
        if grown is not None:
            self.fit.measured(elements, grown, exact=exact)
            if before is not None:
                share = grown / max(1, before.left)
                self.taken.peak_share = max(share, self.taken.peak_share or 0.0)
                self._is_near = share > _NEAR
        ended = time.perf_counter()
        self._spent += ended - began
        self._due, self._spent, self._passes = time.monotonic() + _PACE * self._spent, 0.0, 0

    def _is_due(self, elements: int | None) -> bool:
        """Whether memory is looked at now: a size that is new, a limit that is near, or long enough since."""
        is_new = elements is not None and elements > self.fit.largest_measured
        is_close = self._is_near or self._is_rising
        return is_new or is_close or self._passes >= _AT_LEAST_EVERY or time.monotonic() >= self._due

    def _observe(self, elements: int | None, *, again: bool = False) -> Look | None:
        if again or self._is_due(elements):
            began = time.perf_counter()
            self.look = self.gauge.look()
            self._spent += time.perf_counter() - began
        return self.look

    def _after_failure(self) -> None:
        if self._now is not None:
            elements, room = self._now
            self.fit.failed(elements, room)
        self._now, self._is_near = None, True
        self.gauge.tidy()
