"""A real program that somebody stops with SIGSTOP, and one that waits for ever on a lock that it holds."""

from __future__ import annotations

import signal
import tempfile
from pathlib import Path

from premortem.core.drill import Bounds
from premortem.faults.disturbance import Disturbance
from premortem.faults.fault import Evidence, Fault
from premortem.risks.case import Ticking, WatchedCase
from premortem.stages.process.job import Job

SILENT_S = 1.5


class Stopped(Disturbance):
    """SIGSTOP to every process of the program."""

    name = "stopped program"

    def __init__(self, job: Job) -> None:
        self._job = job
        self._seen = Evidence(False, "never stopped")
        self._pid = -1

    def _apply(self) -> None:
        child = self._job.running.child
        if child is not None:
            self._pid = child.pid
            child.send_all(signal.SIGSTOP)

    def _undo(self) -> None:
        child = self._job.running.child
        if child is not None and child.pid == self._pid:
            child.send_all(signal.SIGCONT)

    def look(self) -> None:
        """Take note while it is on: the guard may let it go on at any look."""
        child = self._job.running.child
        if child is not None and child.pid == self._pid and child.tree.look().is_stopped:
            self._seen = Evidence(True, f"process {self._pid} was in a stop")

    def observed(self) -> Evidence:
        """By the state of the process, as /proc showed it."""
        return self._seen

    def gone(self) -> Evidence:
        """Whether it is no longer in a stop."""
        child = self._job.running.child
        there = child is not None and child.pid == self._pid and child.tree.look().is_stopped
        return Evidence(not there, f"process {self._pid} is {'still stopped' if there else 'stopped no more'}")


class Deadlock(Disturbance):
    """Wakes the program's own deadlock: it takes a lock that it holds, once."""

    name = "deadlock"

    def __init__(self, job: Job) -> None:
        self._job = job

    def _apply(self) -> None:
        (self._job.folder / "hang").touch()

    def _undo(self) -> None:
        (self._job.folder / "hang").unlink(missing_ok=True)

    def observed(self) -> Evidence:
        """By the mark that the program leaves on its way into the lock."""
        hung = (self._job.folder / "hung").exists()
        return Evidence(hung, f"the lock was {'taken twice' if hung else 'never taken twice'}")

    def gone(self) -> Evidence:
        """Whether nothing leads into it any more."""
        there = (self._job.folder / "hang").exists()
        return Evidence(not there, f"the deadlock {'still waits' if there else 'sleeps'}")


def job(seed: int) -> Ticking:
    """60 steps of 40 ms, a checkpoint at each."""
    made = Job(Path(tempfile.mkdtemp()), seed, num_steps=60)
    return Ticking(workload=made.workload, advance=made.advance, outcome=made.outcome, digest=made.digest,
                   close=made.close, subject=made)  # fmt: skip


def stopped(ticking: Ticking) -> Fault:
    """Somebody stops it; the evidence is taken at each look."""
    assert isinstance(ticking.subject, Job)
    fault, advance = Stopped(ticking.subject), ticking.advance

    def look(tick: int) -> list[float | None]:
        if fault.is_on:
            fault.look()
        return advance(tick)

    ticking.advance = look
    return fault


def deadlock(ticking: Ticking) -> Fault:
    """It hangs once."""
    assert isinstance(ticking.subject, Job)
    return Deadlock(ticking.subject)


PARAMS = {"process/silent": {"silent_s": SILENT_S}}
CASES = (
    WatchedCase(
        name="a script is stopped", build=job, fault=stopped, at=10, lasts=90, num_ticks=100,
        bounds=Bounds(detect_within=40), params=PARAMS,
    ),
    WatchedCase(
        name="a script waits for ever", build=job, fault=deadlock, at=10, lasts=90, num_ticks=100,
        bounds=Bounds(detect_within=40), params=PARAMS,
    ),
)  # fmt: skip
