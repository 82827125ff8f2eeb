"""Runs one arm of a drill: a training run with or without its fault, with or without the guard.

The unguarded loop is plain torch, written out: it shares no code with the guard, so a bit-identical baseline
means something.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch

from premortem.core.drill import Arm
from premortem.core.errors import StageError
from premortem.core.evidence import Record
from premortem.faults.batches import DisturbedBatches
from premortem.faults.fault import Evidence, Fault, NotPermitted, RemovalFailed
from premortem.risks.case import TrainingCase
from premortem.run.guard import Guard, Options
from premortem.stages.train.guarded.requests import digest
from premortem.stages.train.trainable import Trainable

_RED = ("RED", "CRITICAL")
_PATIENCE = 3
"""An arm gets so many times its steps before it is cut: a guarded run may repeat some, never for ever."""


@dataclass(slots=True)
class _Watcher:
    """Reads the records of a guarded arm."""

    alarms: int = 0
    findings: int = 0
    detected_at: int | None = None
    first_level: str = ""
    rungs: list[str] = field(default_factory=list)
    recovered_after: str | None = None
    recovered_at: int | None = None
    ended: str = ""
    fault_at: int | None = None

    def hear(self, record: Record) -> None:
        data = record.data
        if record.event == "finding" and data["level"] in _RED:
            self.alarms += 1
            if self.detected_at is None and self.fault_at is not None:
                self.detected_at = record.tick
        elif record.event == "finding" and data["level"] == "YELLOW":
            self.findings += 1
        elif record.event == "intent" and data.get("verb") == "turn":
            self.rungs.append(str(data["rung"]))
        elif record.event == "recovered":
            self.recovered_after, self.recovered_at = str(data["after_rung"]), record.tick
        elif record.event == "relapse":
            self.ended = f"relapse: {data['why']}"
        elif record.event in ("closed", "held"):
            self.ended = str(data["verdict"])
        elif record.event == "handed_over":
            self.recovered_after, self.ended = None, f"handed over: {data['why']}"


class _Disturbed:
    """Puts the fault on and takes it off; remembers what its evidence said."""

    def __init__(self, fault: Fault | None) -> None:
        self.fault = fault
        self.stack = ExitStack()
        self.is_on = False
        self.observed: Evidence | None = None
        self.gone: Evidence | None = None
        self.note = ""

    def put_on(self) -> None:
        if self.fault is not None:
            self.stack.enter_context(self.fault)
            self.is_on = True

    def take_off(self) -> None:
        if self.fault is None or not self.is_on:
            return
        self.is_on = False
        self.observed = self.fault.observed()
        try:
            self.stack.close()
        except RemovalFailed as error:
            self.note = str(error)
        self.gone = self.fault.gone()
        self.note = self.note or f"{self.observed.detail}; {self.gone.detail}"

    def hand(self, batch: Any, step: int) -> Any:
        return self.fault.hand_out(batch, step) if isinstance(self.fault, DisturbedBatches) else batch


@contextmanager
def _prepared(case: TrainingCase, seed: int, folder: Path, *, faulted: bool) -> Iterator[tuple[Trainable, _Disturbed]]:
    run = case.build(seed)
    disturbed = _Disturbed(case.fault(run, folder) if faulted else None)
    try:
        yield run, disturbed
    finally:
        disturbed.take_off()
        disturbed.stack.close()


def plain_arm(case: TrainingCase, seed: int, folder: Path, *, faulted: bool) -> Arm:
    """The run without the guard, as anyone would write it."""
    began = time.monotonic()
    with _prepared(case, seed, folder, faulted=faulted) as (run, disturbed):
        arm, step, failure = Arm(outcome=math.nan), 0, ""
        try:
            for batch in run.batches():
                if step == case.at:
                    disturbed.put_on()
                elif step == case.at + case.lasts:
                    disturbed.take_off()
                if step >= run.num_steps:
                    break
                _plain_step(run, disturbed.hand(batch, step))
                step += 1
        except NotPermitted as error:
            return replace(arm, note=str(error))
        except (OSError, RuntimeError) as error:
            failure = f"{type(error).__name__}: {error}"
        disturbed.take_off()
        outcome = math.nan if failure else run.outcome()
    return _finished(arm, run, disturbed, outcome, began, step, failure)


def _plain_step(run: Trainable, batch: Any) -> None:
    run.loss(run.model, batch).backward()  # type: ignore[no-untyped-call]
    if run.gradient_filter is not None:
        run.gradient_filter.apply(run.model)
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), run.max_norm)
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    run.scheduler.step()
    if run.ema is not None:
        run.ema.update(run.model)


def guarded_arm(case: TrainingCase, seed: int, folder: Path, guard: Guard, *, faulted: bool) -> Arm:
    """The same run under guard; the fault stays on until recovery is judged, then goes, and the peel is tested."""
    began = time.monotonic()
    with _prepared(case, seed, folder, faulted=faulted) as (run, disturbed):
        watcher = _Watcher()
        options = Options(**{"max_norm": run.max_norm, "save_every": 25, **cast("dict[str, Any]", case.options)})
        try:
            ticks = _guarded_loop(case, run, disturbed, (guard, options, folder, watcher))
        except NotPermitted as error:
            return Arm(outcome=math.nan, note=str(error))
        disturbed.take_off()
        outcome = run.outcome()
    arm = Arm(
        outcome=outcome, fault_at=watcher.fault_at, detected_at=watcher.detected_at, rungs=tuple(watcher.rungs),
        recovered_after=watcher.recovered_after, ended=watcher.ended, findings=watcher.findings, alarms=watcher.alarms,
        recovered_in=None if watcher.recovered_at is None else watcher.recovered_at - (watcher.fault_at or 0),
    )  # fmt: skip
    return _finished(arm, run, disturbed, outcome, began, ticks, "")


def _guarded_loop(
    case: TrainingCase, run: Trainable, disturbed: _Disturbed, how: tuple[Guard, Options, Path, _Watcher]
) -> int:
    guard, options, folder, watcher = how
    with guard.training(
        run.model, run.optimizer, scheduler=run.scheduler, ema=run.ema, gradient_filter=run.gradient_filter,
        checkpoints=folder, options=options,
    ) as guarded:  # fmt: skip
        guarded.driver.listen(watcher.hear)
        began_at: int | None = None
        while guarded.step_number < run.num_steps and not guarded.stopped:
            for batch in guarded.batches(run.loader):
                if guarded.step_number >= run.num_steps or guarded.ticks >= _PATIENCE * run.num_steps:
                    return guarded.ticks
                if began_at is None and guarded.step_number == case.at:
                    began_at = guarded.ticks
                    watcher.fault_at = guarded.ticks + 1
                    disturbed.put_on()
                elif began_at is not None and (
                    watcher.recovered_at is not None or guarded.ticks >= began_at + case.lasts
                ):
                    disturbed.take_off()
                guarded.step(run.loss, disturbed.hand(batch, guarded.ticks))
        return guarded.ticks


def _finished(
    arm: Arm, run: Trainable, disturbed: _Disturbed, outcome: float, began: float, ticks: int, failure: str
) -> Arm:  # fmt: skip
    observed, gone = disturbed.observed, disturbed.gone
    return replace(
        arm, outcome=outcome, digest=f"{digest(run.model.state_dict()):08x}", ticks=ticks,
        seconds=time.monotonic() - began, note=failure or disturbed.note,
        fault_observed=None if observed is None else observed.holds, fault_gone=None if gone is None else gone.holds,
    )  # fmt: skip


def stage_failure(error: StageError) -> Arm:
    """An arm that could not be run at all."""
    return Arm(outcome=math.nan, note=str(error))
