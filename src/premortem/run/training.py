"""A guarded training run: the driver in the training loop's own step.

Data flows one way: batch → step → row of signals → kernel → commands → controls → evidence.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from premortem.core.action import Control
from premortem.core.engine import Engine
from premortem.core.errors import ConfigError, StageError
from premortem.core.evidence import Event, Plain, Record
from premortem.core.signal import Signal
from premortem.ledger.ledger import Ledger
from premortem.parts.curve import write_curve
from premortem.run.bind import bind
from premortem.run.driver import Driver
from premortem.run.keeping import Keeping
from premortem.stages.train.guarded.parts import Parts
from premortem.stages.train.guarded.requests import Request
from premortem.stages.train.guarded.stepper import Companions, Stepped, Stepper
from premortem.stages.train.guarded.workload import TrainingWorkload
from premortem.stages.train.position import PositionedBatches

if TYPE_CHECKING:
    from premortem.run.guard import Guard, Options

_GATE = 25.0
"""A gradient norm of so many times the healthy one never reaches the weights."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is guarded."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    companions: Companions
    state: dict[str, object]
    folder: Path | None
    signals: tuple[Signal, ...]


class GuardedTraining:
    """The run that :meth:`premortem.Guard.training` gives; use it as a context manager."""

    def __init__(self, guard: Guard, subject: Subject, options: Options) -> None:
        self._subject = subject
        self._options = options
        self.stepper = Stepper(
            subject.model, subject.optimizer, subject.companions,
            max_norm=options.max_norm, accumulate=options.accumulate,
        )  # fmt: skip
        self.parts = Parts(subject.model, subject.optimizer)
        companions = subject.companions
        for name, thing in (
            ("scheduler", companions.scheduler),
            ("scaler", companions.scaler),
            ("ema", companions.ema),
            ("gradient_filter", companions.gradient_filter),
            *subject.state.items(),
        ):
            self.parts.add(name, thing)
        self.keeping = Keeping(subject.folder, options, subject.model, self.parts)
        self.stop_reason = ""
        self._bad_batches: list[tuple[int, int]] = []
        self._last: Stepped | None = None
        self._losses: list[float] = []
        self.workload = TrainingWorkload(self.stepper, subject.folder, self._requests(), subject.signals)
        self.engine = Engine(bind(guard.active, self.workload, guard.file.register, probation=options.probation))
        given = guard.ledger
        beside = None if subject.folder is None or given is not None else subject.folder / "ledger.db"
        self._owns_ledger = given is None or isinstance(given, str | Path)
        run = "training" if subject.folder is None else str(subject.folder.resolve())
        self.ledger: Ledger = given if isinstance(given, Ledger) else Ledger.open(given or beside, run=run)
        self.driver = Driver(self.engine, self.workload, self.ledger, run=run, mark_good=self.keeping.mark_good)
        self.driver.listen(self._refresh_gate)
        self.ticks = 0
        self._position: PositionedBatches[Any] | None = None
        self._saved_position: Any = None
        self._last_time: float | None = None
        self._is_open = False

    # --- the context -------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.keeping.open(self.engine)
        self._is_open = True
        resumed = self._resume() if self._options.resume else ""
        self._note("run", what="resumed" if resumed else "began", where=resumed)
        for why in self.keeping.rejected:
            self._note("guard_fault", what=f"a bundle was passed over: {why}")
        for gap in (*self.engine.plan.gaps, *self._gaps()):
            self._note("unwatched", what=gap)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.driver.save_memory()
            why = self.stop_reason or ("" if error is None else f"{type(error).__name__}: {error}")
            self._note("run", what="ended", steps=self.step_number, ticks=self.ticks, why=why)
        finally:
            self._is_open = False
            self.keeping.close()
            if self._owns_ledger:
                self.ledger.close()

    # --- the loop ----------------------------------------------------------------------------

    @property
    def step_number(self) -> int:
        """Optimiser steps that the weights have behind them; a restore takes it back."""
        return self.keeping.step

    @property
    def stopped(self) -> bool:
        """Whether the guard ended the run; ``stop_reason`` says why."""
        return bool(self.stop_reason)

    def batches(self, loader: Iterable[Any]) -> Iterator[Any]:
        """One epoch of ``loader``, with a position that is saved and skips that are remembered.

        A loader that is no ``DataLoader`` has no position: that is reported, and a resume starts it anew.
        """
        if not isinstance(loader, DataLoader):
            self._note("unwatched", what=f"a {type(loader).__name__} has no position: a resume starts it anew")
            for batch in loader:
                if self.stopped:
                    return
                yield batch
            return
        if self._position is None or self._position.loader is not loader:
            self._position = PositionedBatches(loader)
            if self._saved_position is not None:
                self._position.load_state_dict(self._saved_position)
                self._saved_position = None
            self.keeping.position = self._position
        for _, batch in self._position:
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
        """
        if not self._is_open:
            raise ConfigError("run.step: the run is not open; write 'with guard.training(...) as run:' around the loop")
        model = self._subject.model
        if isinstance(loss, Tensor):
            stepped = self._from_loss(loss)
        elif self.stepper.needs_closure:
            stepped = self.stepper.close_over(lambda: loss(model, batch))
        else:
            stepped = self._from_loss(loss(model, batch))
        if stepped is not None:
            self._finish(stepped)
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
        """Save a bundle now; a failing disk is a finding, never an end of the run."""
        self._save()

    def keep_curve(self, path: str | Path) -> None:
        """Write this run's loss curve, as what later runs must keep up with (risk slow-convergence).

        Raises:
            ConfigError: before the first step.
        """
        write_curve(Path(path), self._losses)

    # --- one step ----------------------------------------------------------------------------

    def _from_loss(self, loss: Tensor) -> Stepped | None:
        if self.stepper.needs_closure:
            raise ConfigError("run.step: LBFGS evaluates the loss itself; call run.step(loss_fn, batch)")
        if loss.numel() != 1:
            raise ConfigError(
                f"run.step: found a loss of shape {tuple(loss.shape)}, expected one number; take its mean"
            )
        return self.stepper.backward(loss)

    def _finish(self, stepped: Stepped) -> None:
        now = time.monotonic()
        seconds = None if self._last_time is None else now - self._last_time
        self._last_time, self._last = now, stepped
        self.ticks += 1
        self.keeping.stepped(applied=stepped.applied, seconds=seconds)
        if not stepped.applied and self._position is not None:
            self._bad_batches.append((self._position.epoch, self._position.index - 1))
        row = self.workload.row(stepped, seconds)
        self.ledger.note_readings(
            self.ticks, {s.name: v for s, v in zip(self.workload.signals, row, strict=True) if v is not None}
        )
        self._losses.append(stepped.loss)
        self.driver.tick(row, self.ticks)
        if self.keeping.is_due and not self.stopped:
            self._save()

    def _save(self) -> None:
        if self._last is not None and not self._last.applied:
            return  # a bundle of a bad moment is no candidate; the next step will do
        try:
            self.keeping.save(self.ticks, self.engine)
        except StageError as error:
            self.workload.save_failed = True
            self.driver.carry_out(self.engine.guard_fault(f"a bundle was not saved: {error}"))
        else:
            self.workload.save_failed = False
            self.workload.need_gib = self.keeping.need_gib
            self.engine.candidate(self.ticks)

    def _refresh_gate(self, record: Record) -> None:
        """The cap on single gradients follows the healthy baseline; a new normal has none yet."""
        if record.event in ("good", "rebaselined"):
            band = self.engine.baseline.bands.get("grad_norm")
            self.stepper.gate = math.inf if band is None else _GATE * (band.location + 3 * band.scale)

    # --- requests ----------------------------------------------------------------------------

    def _requests(self) -> dict[str, Control]:
        """One-shot controls; those on checkpoints are there only with a folder."""
        requests: dict[str, Control] = {
            "batch": Request(self._skip_batches, self._batches_are_skipped),
            "run": Request(self._stop, lambda: self.stopped),
        }
        if self._subject.folder is not None:
            requests["weights"] = self.keeping.restore_control(self._on_restored)
            requests["checkpoints"] = self.keeping.prune_control()
            if self._options.intermediates:
                requests["intermediates"] = self.keeping.intermediates_control()
        return requests

    def _skip_batches(self, request: str) -> None:
        """Remember the batches whose gradient never reached the weights, so that no epoch draws them again."""
        if self._last is None or self._last.applied:
            raise StageError("the last step was applied: there is no batch to skip")
        if self._position is not None:
            self._position.skip.update(self._bad_batches)

    def _batches_are_skipped(self) -> bool:
        known = self._position is None or set(self._bad_batches) <= self._position.skip
        return known and self.stepper.weights_are_finite()

    def _stop(self, request: str) -> None:
        self.stop_reason = request

    def _on_restored(self) -> None:
        self.workload.forget_sample()
        self.stepper.optimizer.zero_grad(set_to_none=True)

    # --- resume and report -------------------------------------------------------------------

    def _resume(self) -> str:
        memory = self.ledger.load_state(self.driver.run)
        loaded = self.keeping.resume(self.engine)
        if isinstance(memory, dict):
            self.driver.carry_out(self.engine.load(dict(memory)))
        if loaded is None:
            return ""
        self._saved_position = loaded.position
        self.ticks = loaded.ticks
        self._last_time = None
        return loaded.path

    def _gaps(self) -> list[str]:
        gaps = []
        if self._subject.folder is None:
            gaps.append("no folder for checkpoints: nothing can be restored")
        if any(p.device.type != "cpu" for p in self._subject.model.parameters()):
            gaps.append("on an accelerator one scalar a step is awaited: the finite flag (kernel decision 9)")
        return gaps

    def _note(self, event: Event, **data: Plain) -> None:
        try:
            self.driver.note(Record(event, "", None, self.ticks, self.driver.seconds, data))
        except Exception as error:
            warnings.warn(f"premortem: a record was not written: {error}", RuntimeWarning, stacklevel=2)
