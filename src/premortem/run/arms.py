"""Runs one arm of a drill: a training run with or without its fault, with or without the guard.

The unguarded loop is plain torch, written out: it shares no code with the guard, so a bit-identical baseline
means something.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from premortem.core.drill import Arm, Seed
from premortem.faults.batches import DisturbedBatches
from premortem.faults.fault import Fault, NotPermitted
from premortem.risks.case import Case, TrainingCase, WatchedCase
from premortem.run.guard import Guard, Options
from premortem.run.ticking import Disturbed, watched_seed
from premortem.run.watcher import Watcher
from premortem.stages.train.guarded.requests import digest
from premortem.stages.train.trainable import Trainable

_PATIENCE = 3
"""An arm gets so many times its steps before it is cut: a guarded run may repeat some, never for ever."""


def _hand(fault: Fault | None, batch: Any, step: int) -> Any:
    return fault.hand_out(batch, step) if isinstance(fault, DisturbedBatches) else batch


@contextmanager
def _prepared(case: TrainingCase, seed: int, folder: Path, *, faulted: bool) -> Iterator[tuple[Trainable, Disturbed]]:
    run = case.build(seed)
    disturbed = Disturbed(case.fault(run, folder) if faulted else None)
    try:
        yield run, disturbed
    finally:
        disturbed.take_off()


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
                _plain_step(run, _hand(disturbed.fault, batch, step))
                step += 1
        except NotPermitted as error:
            return replace(arm, note=str(error))
        except (OSError, RuntimeError) as error:
            failure = f"{type(error).__name__}: {error}"
        disturbed.take_off()
        arm = replace(arm, outcome=math.nan if failure else run.outcome())
    return _finished(arm, run, disturbed, began=began, ticks=step, failure=failure)


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
        watcher = Watcher()
        options = Options(**{"max_norm": run.max_norm, "save_every": 25, **cast("dict[str, Any]", case.options)})
        try:
            ticks = _guarded_loop(case, run, disturbed, (guard, options, folder, watcher))
        except NotPermitted as error:
            return Arm(outcome=math.nan, note=str(error))
        disturbed.take_off()
        outcome = run.outcome()
    arm = watcher.arm(Arm(outcome=outcome))
    return _finished(arm, run, disturbed, began=began, ticks=ticks)


def _guarded_loop(
    case: TrainingCase, run: Trainable, disturbed: Disturbed, how: tuple[Guard, Options, Path, Watcher]
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
                guarded.step(run.loss, _hand(disturbed.fault, batch, guarded.ticks))
        return guarded.ticks


def _finished(arm: Arm, run: Trainable, disturbed: Disturbed, *, began: float, ticks: int, failure: str = "") -> Arm:
    observed, gone = disturbed.verdict()
    return replace(
        arm, digest=f"{digest(run.model.state_dict()):08x}", ticks=ticks,
        seconds=time.monotonic() - began, note=failure or disturbed.note,
        fault_observed=observed, fault_gone=gone,
    )  # fmt: skip


class Arms:
    """The four arms of each case of one entry on one seed; the baselines are run once for each kind of run."""

    def __init__(self, register: str, entry: str, seed: int, home: Path) -> None:
        self._guard = Guard(register, entries=(entry,))
        self._seed = seed
        self._home = home
        self._baselines: dict[object, tuple[Arm, Arm]] = {}

    def run(self, case: Case) -> Seed:
        """All four; folders are fresh, so no arm finds another's checkpoints."""
        if isinstance(case, WatchedCase):
            return watched_seed(case, self._seed, self._home, self._guard)
        baseline, watched = self._baseline(case)
        unguarded = plain_arm(case, self._seed, self._folder(), faulted=True)
        guarded = guarded_arm(case, self._seed, self._folder(), self._guard, faulted=True)
        return Seed(self._seed, baseline, watched, unguarded, guarded)

    def _baseline(self, case: TrainingCase) -> tuple[Arm, Arm]:
        key = (case.build, tuple(sorted(case.options.items())))
        if key not in self._baselines:
            self._baselines[key] = (
                plain_arm(case, self._seed, self._folder(), faulted=False),
                guarded_arm(case, self._seed, self._folder(), self._guard, faulted=False),
            )
        return self._baselines[key]

    def _folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self._home))
