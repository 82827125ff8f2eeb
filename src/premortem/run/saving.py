"""When a guarded run saves, and from where it goes on: its bundles seen from the run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from premortem.core.errors import StageError
from premortem.run.evidence import honour
from premortem.stages.train.distributed.peers import PeerLost
from premortem.stages.train.guarded.trying import NO_ROOM

if TYPE_CHECKING:
    from premortem.run.training import GuardedTraining


class Saving:
    """Saves the run that it belongs to, tells the kernel what came of it, and brings it back after a restart."""

    def __init__(self, run: GuardedTraining) -> None:
        self._run = run

    def save(self) -> None:
        """Save a bundle now, but none of a bad moment; a disk that fails is recorded."""
        run = self._run
        last = run.asking.last
        if last is not None and not last.applied and last.why != NO_ROOM:
            return  # a bundle of a bad moment is no candidate; the next step will do
        began = time.monotonic()
        try:
            run.keeping.save(run.ticks)
        except PeerLost:
            raise
        except StageError as error:
            run.workload.failed_saves += 1
            run.driver.carry_out(run.engine.guard_fault(f"a bundle was not saved: {error}"))
        else:
            run.workload.failed_saves = 0
            run.workload.need_gib = run.keeping.need_gib
            run.engine.candidate(run.ticks)
            honour(run)  # people may acknowledge or rebaseline a run that goes on
        self._not_of_the_step(time.monotonic() - began)

    def _not_of_the_step(self, seconds: float) -> None:
        """Saving is no part of the next step's time."""
        if self._run.last_time is not None:
            self._run.last_time += seconds

    def remember(self) -> None:
        """Take this moment into memory as a candidate, where all is well and it is time for one."""
        run, engine = self._run, self._run.engine
        is_well = engine.climbing is None and engine.baseline.healthy_since is not None
        last = run.asking.last
        if not is_well or last is None or not last.applied:
            return
        began = time.monotonic()
        if run.keeping.remember(run.ticks):
            engine.candidate(run.ticks)
            self._not_of_the_step(time.monotonic() - began)

    def resume(self, *, weights: bool) -> str:
        """Go on from the newest bundle that verifies (``weights``) and with the guard's memory; the bundle's path."""
        run = self._run
        loaded = run.keeping.resume() if weights else None
        if loaded is not None:
            run.draws.resume_at(loaded.position, epoch=loaded.epoch)
            run.ticks = loaded.ticks
            run.stepper.forget()
        is_moved = loaded is not None and loaded.is_moved
        run.remembering.recall(skips=not is_moved)
        if loaded is not None and is_moved:
            run.report_gap(
                f"{loaded.path} is of another number of processes: each one's place in the data, random streams and "
                f"skipped batches are not carried over, and the data begin anew with epoch {loaded.epoch}"
            )
        return "" if loaded is None else loaded.path
