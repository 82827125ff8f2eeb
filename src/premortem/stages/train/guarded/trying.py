"""The second form's forward and backward pass: what fails for want of memory or device is put back and tried again.

Nothing is tried again before an answer was found: without one, the exception goes on as it came.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from premortem.core.errors import ConfigError
from premortem.stages.train.guarded.failures import Failure, Kind, classify
from premortem.stages.train.guarded.rewind import RandomMoment
from premortem.stages.train.guarded.stepper import Stepped, Stepper

LossFn = Callable[[nn.Module, Any], Tensor]
NO_ROOM = "out of memory"
Answer = Callable[[Failure], Callable[[], None] | None]
"""Asked while the exception still holds its frames; what it gives is called when they are let go, then all is tried
again. ``None``: no answer, the exception goes on."""


class NoRoom(Exception):  # noqa: N818 - a way out of the step, never seen outside
    """The step cannot be made: it is given up, and the ladder decides."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """One batch as it was handed over, and the random streams at that moment."""

    loss_fn: LossFn
    batch: Any
    moment: RandomMoment


class Trying:
    """Runs micro-batches and, after a failure that somebody answers, all those of the present step again.

    Put back before that: gradients, buffers, random streams. Not put back: what the user's own code changed.
    """

    def __init__(self, stepper: Stepper) -> None:
        self._stepper = stepper
        self._step: list[MicroBatch | None] = []  # None: one of the first form
        self.answers: dict[Kind, Answer] = {}
        """Who answers which kind of failure; each risk's mechanism brings its own."""
        self.take: Callable[[MicroBatch], Tensor] = self.take_whole
        """Forward and backward of one micro-batch; returns its mean loss, detached."""
        self.torn: Callable[[Failure], Stepped | None] | None = None
        """Asked when the optimiser's own step failed; ``None``: no answer, the exception goes on."""

    def first_form(self, loss: Tensor) -> Stepped | None:
        """A loss that is there already: its forward pass cannot be repeated, so nothing is tried again.

        Raises:
            ConfigError: where the optimiser evaluates the loss itself.
        """
        if self._stepper.needs_closure:
            raise ConfigError("run.step: LBFGS evaluates the loss itself; call run.step(loss_fn, batch)")
        self._begin(None)
        return self._stepper.backward(loss)

    def second_form(self, loss_fn: LossFn, batch: Any) -> Stepped | None:
        """One micro-batch: forward, backward and, at the step's last one, the optimiser's step.

        Raises:
            whatever ``loss_fn`` raised, untouched, where nobody has an answer.
        """
        stepper = self._stepper
        if stepper.needs_closure:
            return stepper.close_over(lambda: loss_fn(stepper.model, batch))
        self._begin(MicroBatch(loss_fn, batch, RandomMoment()))
        try:
            answer = self._gather(again=False)
            while answer is not None:
                stepper.let_go()
                answer()
                stepper.put_back_buffers()  # after the answer: on a lost device there is nothing to put back into
                answer = self._gather(again=True)
        except NoRoom:
            return self._give_up()
        if stepper.is_complete:
            self._step.clear()  # batches are let go before the optimiser allocates
        return self._finish()

    def _give_up(self) -> Stepped:
        """No room for this step: nothing of it is left, and the next batch comes to whatever the ladder does now."""
        self._step.clear()
        self._stepper.let_go()
        self._stepper.put_back_buffers()
        return Stepped(math.nan, None, False, NO_ROOM)

    def _finish(self) -> Stepped | None:
        """The optimiser's step; one torn in the middle by a failure cannot be taken again: its weights are unsound."""
        try:
            return self._stepper.finish_if_complete()
        except Exception as error:
            failure = classify(error)
            if failure is None or self.torn is None or not self._stepper.peers.is_alone:
                raise
            traceback.clear_frames(error.__traceback__)
            self._stepper.let_go()
            stepped = self.torn(failure)
            if stepped is None:
                raise
            return stepped

    def _begin(self, micro: MicroBatch | None) -> None:
        if not self._stepper.num_pending:
            self._step.clear()
        self._step.append(micro)

    def _gather(self, *, again: bool) -> Callable[[], None] | None:
        """Take what of this step was not taken yet; ``None`` when all is done, else what to do about a failure."""
        stepper = self._stepper
        try:
            for micro in self._step[stepper.num_pending :]:
                assert micro is not None
                if again:
                    micro.moment.put_back()
                stepper.count(self.take(micro))
        except Exception as error:
            answer = self._answer(classify(error))
            if answer is None:
                raise
            # the frames hold every activation of the failed pass
            traceback.clear_frames(error.__traceback__)
            return answer
        return None

    def _answer(self, failure: Failure | None) -> Callable[[], None] | None:
        if failure is None or None in self._step or not self._stepper.peers.is_alone:
            # micro-batches of the first form stand before it, or other processes wait: it cannot be taken again
            return None
        answer = self.answers.get(failure.kind)
        return None if answer is None else answer(failure)

    def take_whole(self, micro: MicroBatch) -> Tensor:
        """The batch in one piece."""
        return self._stepper.add(micro.loss_fn(self._stepper.model, micro.batch))
