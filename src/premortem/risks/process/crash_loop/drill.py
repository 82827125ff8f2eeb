"""A real program that the kernel kills with a real signal in mid-run; it goes on from its checkpoint."""

from __future__ import annotations

import signal
import tempfile
from pathlib import Path

from premortem.core.drill import Bounds
from premortem.faults.disturbance import Disturbance
from premortem.faults.fault import Evidence, Fault
from premortem.risks.case import Ticking, WatchedCase
from premortem.stages.process.job import Job


class Crashing(Disturbance):
    """A signal that ends the program, sent once, as a fault in native code sends it."""

    def __init__(self, job: Job, number: signal.Signals) -> None:
        self.name = f"crash by {number.name}"
        self._job, self._number = job, number
        self._pid = -1

    def _apply(self) -> None:
        child = self._job.running.child
        if child is not None:
            self._pid = child.pid
            child.send(self._number)

    def _undo(self) -> None:
        """A signal is over when it has come."""

    def observed(self) -> Evidence:
        """By the wait status of that very process."""
        endings = self._job.running.starts.endings
        codes = [ended.code for ended in endings if ended.pid == self._pid]
        return Evidence(codes == [128 + self._number], f"process {self._pid} ended with {codes or 'nothing yet'}")

    def gone(self) -> Evidence:
        """Whether that process is away."""
        there = Path(f"/proc/{self._pid}").exists()
        return Evidence(not there, f"process {self._pid} is {'still there' if there else 'gone'}")


def job(seed: int) -> Ticking:
    """60 steps of 40 ms, a checkpoint at each."""
    made = Job(Path(tempfile.mkdtemp()), seed, num_steps=60)
    return Ticking(workload=made.workload, advance=made.advance, outcome=made.outcome, digest=made.digest,
                   close=made.close, subject=made)  # fmt: skip


def crashing(ticking: Ticking) -> Fault:
    """A segmentation fault."""
    assert isinstance(ticking.subject, Job)
    return Crashing(ticking.subject, signal.SIGSEGV)


CASES = (
    WatchedCase(
        name="a script crashes in mid-run", build=job, fault=crashing, at=10, lasts=60, num_ticks=250,
        bounds=Bounds(detect_within=5),
    ),
)  # fmt: skip
