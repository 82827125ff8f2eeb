"""A guarded training run: the driver in the training loop's own step.

Data flows one way: batch → step → row of signals → kernel → commands → controls → evidence.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor
from torch.utils.data import DataLoader

from premortem.core.engine import Engine
from premortem.core.errors import ConfigError
from premortem.core.evidence import Event, Plain, Record
from premortem.parts.curve import write_curve
from premortem.run.asking import Asking
from premortem.run.bind import bind
from premortem.run.calls import Calls
from premortem.run.capping import Capping
from premortem.run.device_loss import LOST, DeviceLoss, GivenUp
from premortem.run.distributed.bundles import SharedBundles
from premortem.run.distributed.company import Company
from premortem.run.evidence import honour
from premortem.run.keeping import Keeping
from premortem.run.making_room import MakingRoom
from premortem.run.remembering import Remembering
from premortem.run.saving import Saving
from premortem.run.subject import Subject
from premortem.stages.train.guarded.checks import require_fit
from premortem.stages.train.guarded.draws import Draws
from premortem.stages.train.guarded.stepper import OVERFLOW, Stepped, Stepper
from premortem.stages.train.guarded.termination import EXIT_CODE, Termination
from premortem.stages.train.guarded.trying import NO_ROOM, Trying
from premortem.stages.train.guarded.workload import TrainingWorkload

if TYPE_CHECKING:
    from premortem.run.guard import Guard, Options

_PATIENCE_S = 300.0
"""A restore of a large model takes its time; given up earlier, it would go on changing weights beside the loop."""


class GuardedTraining:
    """The run that :meth:`premortem.Guard.training` gives; use it as a context manager.

    SIGTERM ends it between two steps with a bundle saved and exit code 143, where nobody else handles the signal.
    """

    def __init__(self, guard: Guard, subject: Subject, options: Options) -> None:
        self._subject = subject
        self._options = options
        self.company = Company(subject, lambda what: self.report_gap(what), alone=options.alone)
        self.stepper = Stepper(
            subject.model, subject.optimizer, subject.companions,
            max_norm=options.max_norm, accumulate=options.accumulate, peers=self.company.peers,
        )  # fmt: skip
        self.trying = Trying(self.stepper)
        self.draws = Draws()
        self.parts = subject.parts()
        bundles = SharedBundles(self.company.peers, self.parts, subject.model, subject.optimizer)
        self.keeping = Keeping(subject.folder, options, bundles, self.draws.position_state)
        self.ticks = 0
        self._losses: list[float] = []
        self.last_time: float | None = None
        self._is_open = False
        self._reported: set[str] = set()
        self.termination = Termination()
        self.asking = Asking(self.stepper, self.draws, lambda: self.remembering.keep_skips(), self._tell)
        self.device_loss = DeviceLoss(self, subject, options.device_poll_s)
        self.making_room = MakingRoom(self, subject, options)
        has_folder = subject.folder is not None
        controls = self.asking.controls(
            self.keeping, lambda: self.workload.forget_sample(),
            has_folder=has_folder, has_intermediates=bool(options.intermediates),
        )  # fmt: skip
        controls |= self.device_loss.controls(has_folder=has_folder)
        controls |= self.making_room.controls(has_folder=has_folder)
        self.workload = TrainingWorkload(
            self.stepper, subject.folder, controls, subject.signals,
            instruments=(self.device_loss.state, self.making_room.room),
        )  # fmt: skip
        self.workload.witnesses |= self.making_room.witnesses(controls) | self.device_loss.witnesses()
        subject.equip(self.workload)
        self.engine = Engine(bind(guard.active, self.workload, guard.file.register, probation=options.probation))
        require_fit(subject.model, subject.optimizer)
        self.ledger = self.company.ledger(guard.ledger)
        self.driver = self.company.driver(
            self.engine, self.workload, self.ledger, patience_s=_PATIENCE_S, mark_good=self.keeping.mark_good
        )
        self._capping = Capping(self.engine, self.stepper)
        self.driver.listen(self._capping.hear)
        self.driver.listen(Calls(guard.file, self.driver.note).hear)
        self.remembering = Remembering(self.driver, self.draws, self.company.peers)
        self._saving = Saving(self)
        self.device_loss.listen()
        self.making_room.listen()

    def __enter__(self) -> Self:
        try:
            self.keeping.open(self.engine)
            resumed = self._resume() if self._options.resume and self._subject.folder is not None else ""
        except BaseException:
            self._let_go()
            raise
        self._is_open = True
        honour(self)
        self.termination.listen()
        self._note("run", what="resumed" if resumed else "began", where=resumed)
        for why in self.keeping.rejected:
            self._note("guard_fault", what=f"a bundle was passed over: {why}")
            warnings.warn(f"premortem: a bundle was passed over: {why}", RuntimeWarning, stacklevel=2)
        for gap in (*self.engine.plan.gaps, *self._subject.gaps(), *self.company.gaps()):
            self.report_gap(gap)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lost = self.company.peers.explain(error)
        try:
            if error is None and not self.stopped and self._subject.folder is not None and self.keeping.is_behind:
                self._saving.save()  # a run that ended well is not taken back to an old bundle
            self.driver.save_memory()
            why = self.stop_reason or ("" if error is None else f"{type(lost or error).__name__}: {lost or error}")
            self._note("run", what="ended", steps=self.step_number, ticks=self.ticks, why=why, open=self.driver.open)
        finally:
            self._is_open = False
            self._let_go()
        if lost is not None:
            raise lost from error
        if self.termination.is_asked and error is None:
            raise SystemExit(EXIT_CODE)

    def _let_go(self) -> None:
        self.termination.close()
        self.making_room.close()
        self.keeping.close()
        self.company.leave()

    @property
    def step_number(self) -> int:
        """Optimiser steps that the weights have behind them; a restore takes it back."""
        return self.keeping.step

    @property
    def epoch(self) -> int:
        """The epoch of the next batch, from 0: ``for epoch in range(run.epoch, epochs)`` goes on after a resume."""
        return self.draws.epoch

    @property
    def stopped(self) -> bool:
        """Whether the guard ended the run; ``stop_reason`` says why."""
        return bool(self.asking.stop_reason)

    @property
    def stop_reason(self) -> str:
        """Why the run was ended early; empty while it goes on."""
        return self.asking.stop_reason

    def batches(self, loader: Iterable[Any]) -> Iterator[Any]:
        """One epoch of ``loader``, with a position that is saved and skips that are remembered.

        A loader that is no ``DataLoader`` has no position: that is reported, and a resume starts it anew.

        Raises:
            ConfigError: for a loader whose order cannot be resumed.
            StageError: when the data are not those of the checkpoint.
        """
        if self.stopped:
            return
        if isinstance(loader, DataLoader):
            drawn: Iterator[Any] = (batch for _, batch in self.draws.of(loader))
        else:
            self.report_gap(f"a {type(loader).__name__} has no position: a resume starts it anew")
            drawn = iter(loader)
        for batch in drawn:
            yield batch
            if self.stopped:
                return

    def step(self, loss: Tensor | Callable[..., Tensor], batch: Any = None) -> Stepped | None:
        """One optimiser step: backward, finite check, clip, optimiser, scheduler, signals, ladder.

        Args:
            loss: a scalar mean loss with a graph; or ``loss_fn(model, batch) → mean loss``.
            batch: for the second form.

        Returns:
            What the step did, or ``None`` while micro-batches accumulate.

        Raises:
            ConfigError: LBFGS in the first form; a loss that is no scalar; a run outside its ``with``.
            SystemExit: 143, in the step after the one that SIGTERM ended the run with.
        """
        self._require_open("run.step")
        if self.termination.is_asked and self.stopped:
            raise SystemExit(EXIT_CODE)  # a loop that does not ask run.stopped must not outlive its SIGTERM
        self.draws.used()
        try:
            if is_second := callable(loss) and not isinstance(loss, Tensor):
                stepped = self.trying.second_form(loss, batch)
            else:
                stepped = self.trying.first_form(loss)
        except GivenUp:
            stepped = Stepped(math.nan, None, False, LOST)
        if stepped is not None and stepped.why == LOST:
            self.draws.stepped(reached=True)  # told look by look; it says nothing of the batch
        elif stepped is not None:
            self.making_room.stepped(second_form=is_second)
            self.observe(stepped)
        return stepped

    def note(self, name: str, value: float) -> None:
        """Measure one of your own signals for the present step."""
        try:
            self.workload.note(name, value)
        except KeyError:
            own = ", ".join(s.name for s in self._subject.signals) or "none"
            raise ConfigError(
                f"run.note: found the unknown signal {name!r}, expected one of: {own}; "
                "declare it by signals=(Signal(...),)"
            ) from None

    def save(self) -> None:
        """Save a bundle now; a disk that fails is recorded, and tried again at the next turn."""
        self._require_open("run.save")
        self._saving.save()

    def keep_curve(self, path: str | Path) -> None:
        """Write this run's loss curve, as what later runs must keep up with (risk slow-convergence).

        Raises:
            ConfigError: before the first step.
        """
        write_curve(Path(path), self._losses)

    def observe(self, stepped: Stepped) -> None:
        """Tell the kernel of a step and carry out what follows; :meth:`step` calls it, and a loop of others' may."""
        now = time.monotonic()
        seconds = None if self.last_time is None else now - self.last_time
        self.last_time, self.asking.last = now, stepped
        self.ticks += 1
        self.keeping.stepped(stepped, seconds)
        self.draws.stepped(reached=stepped.applied or stepped.why in (OVERFLOW, NO_ROOM))
        self._subject.settle(kept=stepped.applied)
        row = self.workload.row(stepped, seconds)
        agreed = self.company.agree(row, is_due=self.keeping.is_due, is_asked=self.termination.is_asked)
        seen = {n: v for n, v in zip(self.workload.names, agreed.row, strict=True) if v is not None}
        self.ledger.note_readings(self.ticks, seen)
        self._losses.append(stepped.loss)
        self.driver.tick(agreed.row, self.ticks)
        if agreed.is_asked and not self.stopped:
            self.termination.is_asked = True  # it may have come to another process
            self.asking.stop("SIGTERM")
            self._saving.save()
        elif agreed.is_due and not self.stopped:
            self._saving.save()
        else:
            self._saving.remember()

    def observe_standstill(self) -> None:
        """Tell the kernel that time goes by while a step stands still, and carry out what follows."""
        self.ticks += 1
        self.last_time = None
        self.driver.tick(self.workload.standstill_row(), self.ticks)
        if self.termination.is_asked and not self.stopped:
            self.asking.stop("SIGTERM")

    def _resume(self) -> str:
        path = self._saving.resume(weights=self._options.resume != "guard")
        self._capping.refresh()
        return path

    def report_gap(self, what: str) -> None:
        """Report, once, what cannot be watched or done here (law 2)."""
        if what not in self._reported:
            self._reported.add(what)
            self._note("unwatched", what=what)

    def _require_open(self, where: str) -> None:
        if not self._is_open:
            raise ConfigError(f"{where}: the run is not open; write 'with guard.training(...) as run:' around the loop")

    def _tell(self, what: str) -> None:
        self._note("run", what=what)

    def _note(self, event: Event, **data: Plain) -> None:
        try:
            self.driver.note(Record(event, "", None, self.ticks, self.driver.seconds, data))
        except Exception as error:
            warnings.warn(f"premortem: a record was not written: {error}", RuntimeWarning, stacklevel=2)
