"""Runs one arm of a drill: a training run with or without its fault, with or without the guard.

The unguarded loop is plain torch, written out: it shares no code with the guard, so a bit-identical baseline
means something.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from premortem.core.drill import Arm, Seed
from premortem.faults.batches import DisturbedBatches
from premortem.faults.fault import Fault, NotPermitted
from premortem.risks.case import Case, Offers, TrainingCase, WatchedCase
from premortem.run.confined import confined
from premortem.run.guard import Guard, Options
from premortem.run.ticking import Disturbed, watched_seed
from premortem.run.training import GuardedTraining
from premortem.run.watcher import Watcher
from premortem.stages.train.guarded.requests import digest
from premortem.stages.train.trainable import Trainable

_OTHER_SEED = 1000
_PATIENCE = 3
"""An arm gets so many times its steps before it is cut: a guarded run may repeat some, never for ever."""


@dataclass(slots=True)
class _Ready:
    """A run, its fault, and where it keeps things."""

    run: Trainable
    disturbed: Disturbed
    folder: Path
    offers: Offers


def _hand(fault: Fault | None, batch: Any, step: int) -> Any:
    return fault.hand_out(batch, step) if isinstance(fault, DisturbedBatches) else batch


@contextmanager
def _prepared(case: TrainingCase, seed: int, folder: Path, *, faulted: bool) -> Iterator[_Ready]:
    with ExitStack() as stack:
        place = folder if case.place is None else stack.enter_context(case.place())
        run = case.build(seed)
        disturbed = Disturbed(case.fault(run, place) if faulted else None)
        stack.callback(disturbed.take_off)
        yield _Ready(run, disturbed, place, case.offers(run))


def plain_arm(case: TrainingCase, seed: int, folder: Path, *, faulted: bool) -> Arm:
    """The run without the guard, as anyone would write it."""
    if case.confined:
        return confined(partial(_plain_here, case, seed, folder, faulted=faulted), faulted=faulted)
    return _plain_here(case, seed, folder, faulted=faulted)


def _plain_here(case: TrainingCase, seed: int, folder: Path, *, faulted: bool) -> Arm:
    began = time.monotonic()
    arm = Arm(outcome=math.nan)
    try:
        with _prepared(case, seed, folder, faulted=faulted) as ready:
            failure, steps = _plain_loop(case, ready)
            ready.disturbed.take_off()
            arm = replace(arm, outcome=math.nan if failure else ready.run.outcome())
            return _finished(arm, ready, began=began, ticks=steps, failure=failure)
    except NotPermitted as error:
        return replace(arm, note=str(error))


def _plain_loop(case: TrainingCase, ready: _Ready) -> tuple[str, int]:
    """Returns what ended it early, and the steps made."""
    run, disturbed, step = ready.run, ready.disturbed, 0
    try:
        for batch in run.batches():
            if step == case.at:
                disturbed.put_on()
            elif step == case.at + case.lasts:
                disturbed.take_off()
            if step >= run.num_steps:
                break
            _plain_step(run, _hand(disturbed.fault, batch, step))
            _commit(ready.offers)
            step += 1
            if case.plain_saves and step % case.plain_saves == 0:
                torch.save({"model": run.model.state_dict(), "optimizer": run.optimizer.state_dict()},
                           ready.folder / f"step-{step}.pt")  # fmt: skip
    except NotPermitted:
        raise
    except (OSError, RuntimeError, MemoryError) as error:
        return f"{type(error).__name__}: {error}", step
    return "", step


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


def _commit(offers: Offers) -> None:
    """A recurrent carry goes on from each step, as its owner's loop would have it."""
    for thing in offers.state.values():
        if callable(commit := getattr(thing, "commit", None)):
            commit()


def guarded_arm(case: TrainingCase, seed: int, folder: Path, guard: Guard, *, faulted: bool) -> Arm:
    """The same run under guard; the fault stays on until recovery is judged, then goes, and the peel is tested."""
    if case.confined:
        return confined(partial(_guarded_here, case, seed, folder, guard, faulted=faulted), faulted=faulted)
    return _guarded_here(case, seed, folder, guard, faulted=faulted)


def _guarded_here(case: TrainingCase, seed: int, folder: Path, guard: Guard, *, faulted: bool) -> Arm:
    began = time.monotonic()
    watcher = Watcher()
    try:
        with _prepared(case, seed, folder, faulted=faulted) as ready:
            # the ledger lies beside the place: on a full disk its spool is another drill's subject
            home = replace(guard, ledger=folder / "ledger.db")
            ticks = _guarded_loop(case, ready, home, watcher)
            ready.disturbed.take_off()
            arm = watcher.arm(Arm(outcome=ready.run.outcome()))
            return _finished(arm, ready, began=began, ticks=ticks)
    except NotPermitted as error:
        return Arm(outcome=math.nan, note=str(error))


def _guarded_loop(case: TrainingCase, ready: _Ready, guard: Guard, watcher: Watcher) -> int:
    run, disturbed, offers = ready.run, ready.disturbed, ready.offers
    options = Options(**{"max_norm": run.max_norm, "save_every": 25, **cast("dict[str, Any]", case.options)})
    with guard.training(
        run.model, run.optimizer, scheduler=run.scheduler, ema=run.ema, gradient_filter=run.gradient_filter,
        checkpoints=ready.folder, options=options,
        state=offers.state, signals=offers.signals, controls=offers.controls,
    ) as guarded:  # fmt: skip
        loss = _measuring(run, guarded, offers)
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
                guarded.step(loss, _hand(disturbed.fault, batch, guarded.ticks))
        return guarded.ticks


def _measuring(run: Trainable, guarded: GuardedTraining, offers: Offers) -> Callable[..., torch.Tensor]:
    def loss(model: torch.nn.Module, batch: Any) -> torch.Tensor:
        value = run.loss(model, batch)
        for name, number in offers.measured().items():
            guarded.note(name, number)
        return value

    return loss if offers.signals else run.loss


def _finished(arm: Arm, ready: _Ready, *, began: float, ticks: int, failure: str = "") -> Arm:
    observed, gone = ready.disturbed.verdict()
    return replace(
        arm, digest=f"{digest(ready.run.model.state_dict()):08x}", ticks=ticks,
        seconds=time.monotonic() - began, note=failure or ready.disturbed.note,
        fault_observed=observed, fault_gone=gone,
    )  # fmt: skip


_PLAIN: dict[object, Arm] = {}


def _plain_once(case: TrainingCase, seed: int, folder: Callable[[], Path], *, faulted: bool) -> Arm:
    """An arm without the guard is the same for every risk and entry, so a process runs it once."""
    fault = (case.fault, case.at, case.lasts) if faulted else None
    key = (case.build, case.place, case.plain_saves, case.confined, seed, fault)
    if key not in _PLAIN:
        _PLAIN[key] = plain_arm(case, seed, folder(), faulted=faulted)
    return _PLAIN[key]


def record_curve(case: TrainingCase, seed: int, path: Path, guard: Guard) -> None:
    """Record the loss curve of a healthy run: the known-good run that slow convergence is held against."""
    run = case.build(seed)
    home = replace(guard, ledger=path.with_suffix(".db"))
    with home.training(run.model, run.optimizer, scheduler=run.scheduler, max_norm=run.max_norm) as guarded:
        while guarded.step_number < run.num_steps and not guarded.stopped:
            for batch in guarded.batches(run.loader):
                guarded.step(run.loss, batch)
                if guarded.step_number >= run.num_steps:
                    break
        guarded.keep_curve(path)


class Arms:
    """The four arms of each case of one entry on one seed; the baselines are run once for each kind of run."""

    def __init__(self, register: str, entry: str, seed: int, home: Path) -> None:
        self._guard = Guard(register, entries=(entry,))
        self._seed = seed
        self._home = home
        self._curve: Path | None = None
        self._watched: dict[object, Arm] = {}

    def run(self, case: Case) -> Seed:
        """All four; folders are fresh, so no arm finds another's checkpoints."""
        if isinstance(case, WatchedCase):
            return watched_seed(case, self._seed, self._home, self._guard)
        guard = self._guard_for(case)
        baseline, watched = self._baseline(case, guard)
        unguarded = _plain_once(case, self._seed, self._folder, faulted=True)
        guarded = guarded_arm(case, self._seed, self._folder(), guard, faulted=True)
        return Seed(self._seed, baseline, watched, unguarded, guarded)

    def _baseline(self, case: TrainingCase, guard: Guard) -> tuple[Arm, Arm]:
        key = (case.build, case.place, case.confined, case.learns_curve, repr(case.options), repr(case.params))
        if key not in self._watched:
            self._watched[key] = guarded_arm(case, self._seed, self._folder(), guard, faulted=False)
        return _plain_once(case, self._seed, self._folder, faulted=False), self._watched[key]

    def _guard_for(self, case: TrainingCase) -> Guard:
        params = {risk: dict(values) for risk, values in case.params.items()}
        if case.learns_curve:
            if self._curve is None:
                self._curve = self._folder() / "curve.json"
                record_curve(case, self._seed + _OTHER_SEED, self._curve, self._guard)
            params.setdefault("train/slow-convergence", {})["baseline_curve"] = str(self._curve)
        return replace(self._guard, params=params) if params else self._guard

    def _folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self._home))
