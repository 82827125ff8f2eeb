"""A run whose device fails in the middle of a step: the kernel is told at every look, and the ladder decides.

The step stands still while the device does not answer: each look at it is a tick of the kernel with nothing measured
but the device. It goes on when the memory of the weights answers again, ends when the ladder ends the run, and
fails with one line when nobody has an answer left. Second form only: in the first, the loss is computed outside.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from premortem.core.action import Control, Override, OverrideStack, Owner, Setting
from premortem.core.errors import StageError
from premortem.core.evidence import Record
from premortem.stages.train.guarded.device import DeviceState
from premortem.stages.train.guarded.failures import Failure
from premortem.stages.train.guarded.moving import device_of, move
from premortem.stages.train.guarded.renewal import Renewal
from premortem.stages.train.guarded.requests import Request, digest
from premortem.stages.train.guarded.settings import NumberSetting
from premortem.stages.train.guarded.stepper import Stepped

if TYPE_CHECKING:
    from premortem.run.subject import Subject
    from premortem.run.training import GuardedTraining

LOST = "the device failed"
CPU = torch.device("cpu")
_LOOK_S = 0.5
"""How often a wait asks whether the process was told to end."""
_IN_A_ROW = 3
"""A step that fails so often while all memory answers is taken for lost memory: something on the device is."""


class GivenUp(Exception):  # noqa: N818 - a way out of the step, never seen outside
    """The run ends while the device does not answer."""


class DeviceLoss:
    """Answers failures of the device for one run, and holds the controls that the ladder turns then."""

    def __init__(self, run: GuardedTraining, subject: Subject, poll_s: float) -> None:
        self._run = run
        self._poll_s = poll_s
        self._renewal = Renewal(subject.model)
        self._is_handed_over = False
        self._failures = 0
        self._failed_at = -1
        self._expected: int | None = None
        self._waiting = NumberSetting(0.0)
        self._place = _Place(self, subject)
        self.state = DeviceState(subject.model)

    def controls(self, *, has_folder: bool) -> dict[str, Control]:
        """By name; those on checkpoints are there only with a folder."""
        controls: dict[str, Control] = {"device_patience": self._waiting, "device": self._place}
        if has_folder:
            controls["checkpoint"] = Request(lambda request: self.bring_back(None), self._is_brought_back)
        return controls

    def witnesses(self) -> dict[str, str]:
        """Where a run has left its device, a signal shows it; one that began on the CPU has nowhere to go."""
        return {} if device_of(self._run.stepper.model).type == CPU.type else {"device": "on_cpu"}

    def listen(self) -> None:
        """Answer for the run, if its register watches the device; else an exception goes on as it came."""
        run = self._run
        if any(bound.watch.signal == "device_lost" for bound in run.engine.plan.watches):
            run.trying.answers["device lost"] = self._answer
            run.trying.torn = self._torn
            run.driver.listen(self._hear)

    def _answer(self, failure: Failure) -> Callable[[], None]:
        return lambda: self._stand_still(failure, torn=False)

    def _torn(self, failure: Failure) -> Stepped | None:
        """Within the optimiser's step: weights are half moved, and only a checkpoint mends them."""
        if failure.kind != "device lost":
            return None
        self._stand_still(failure, torn=True)
        return Stepped(math.nan, None, False, LOST)

    def _hear(self, record: Record) -> None:
        self._is_handed_over |= record.event == "handed_over"

    def _stand_still(self, failure: Failure, *, torn: bool) -> None:
        run, state = self._run, self.state
        self._is_handed_over = False
        self._failures = self._failures + 1 if run.step_number == self._failed_at else 1
        self._failed_at = run.step_number
        run.report_gap(f"{LOST}: {failure.what}")
        state.is_torn = torn
        try:
            while True:
                self._look()
                run.observe_standstill()
                if run.stopped or run.termination.is_asked:
                    raise GivenUp
                if self._is_handed_over:
                    raise StageError(
                        f"{LOST} and the ladder is spent: {failure.what}; start again from the checkpoints"
                    )
                if self._renewal.answers():
                    if not state.is_torn and self._failures < _IN_A_ROW:
                        return
                elif self._waiting.value:
                    self._sleep()
        finally:
            state.clear()

    def _look(self) -> None:
        """A device that works for new memory while the old does not answer has lost what lay there."""
        self.state.is_lost = True
        sound = self._renewal.answers() and self._failures < _IN_A_ROW
        self.state.is_memory_lost = not sound and self._renewal.device_answers()

    def _sleep(self) -> None:
        until = time.monotonic() + self._poll_s
        while (left := until - time.monotonic()) > 0 and not self._run.termination.is_asked:
            time.sleep(min(_LOOK_S, left))

    def bring_back(self, device: torch.device | None) -> None:
        """The newest bundle that verifies, into new memory (on ``device``) where the old is lost.

        Raises:
            StageError: where no bundle verifies.
        """
        run = self._run
        self._expected = None
        path = run.keeping.newest()
        if device is not None or self.state.is_memory_lost:
            self._renewal.renew(device)
        weights = run.keeping.load(path)["model"]
        self.moved()
        self.state.is_torn, self._failures = False, 0
        self._expected = digest(weights)

    def moved(self) -> None:
        """The weights lie elsewhere: what was remembered of the old place goes."""
        self._run.stepper.renewed()
        self._run.workload.forget_sample()

    def _is_brought_back(self) -> bool:
        return self._expected is not None and digest(self._run.stepper.model.state_dict()) == self._expected


class _Place:
    """The control that says where the run computes: 0 where it began, 1 on the CPU; read where the weights lie."""

    def __init__(self, loss: DeviceLoss, subject: Subject) -> None:
        self._loss, self._subject = loss, subject
        self._home = device_of(subject.model)
        self._chosen = OverrideStack(0.0)

    def turn(self, owner: Owner, override: Override) -> None:
        """Move there; from a device that does not answer, by the newest bundle."""
        self._chosen.put(owner, override)
        self._go()

    def undo(self, owner: Owner) -> None:
        """Go back to where the run was, if it answers."""
        self._chosen.remove(owner)
        self._go()

    def read(self) -> Setting:
        """1 where the first parameter lies on the CPU; a run that began there reads what was chosen."""
        if self._home.type == CPU.type:
            return self._chosen.effective
        return float(device_of(self._subject.model).type == CPU.type)

    def _go(self) -> None:
        there = CPU if self._chosen.effective == 1.0 else self._home
        if self._loss.state.is_lost and self._loss.state.is_memory_lost:
            self._loss.bring_back(there)
        elif device_of(self._subject.model) != there:
            with_ = self._subject.companions
            move(self._subject.model, self._subject.optimizer, there, (with_.ema, with_.gradient_filter))
            self._loss.moved()
