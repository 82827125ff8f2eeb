"""A real program whose every step holds some memory, under a limit that the kernel really keeps by killing."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

from premortem.core.drill import Bounds
from premortem.faults.disturbance import Disturbance
from premortem.faults.fault import Evidence, Fault, NotPermitted
from premortem.risks.case import Ticking, WatchedCase
from premortem.stages.process.job import Job

LIMIT = 96 << 20
A_STEP = 1_200_000


class Leaking(Disturbance):
    """Wakes the program's own leak, of so many bytes a step."""

    name = "leaking program"

    def __init__(self, job: Job, a_step: int) -> None:
        self._job, self._a_step = job, a_step
        self._file = job.folder / "leak"
        self._before = 0

    def _apply(self) -> None:
        if self._job.refused:
            raise NotPermitted(self._job.refused)
        self._before = self._job.running.look().memory
        beside = self._file.with_suffix(".new")
        beside.write_text(str(self._a_step))
        beside.replace(self._file)  # the program may look at any moment

    def _undo(self) -> None:
        self._file.unlink(missing_ok=True)

    def observed(self) -> Evidence:
        """By the kernel's account of the group: the most that was ever charged, and whom it killed."""
        group = self._job.running.setup.group
        peak = 0 if group is None else group.group.peak or 0
        kills = 0 if group is None else group.group.oom_kills or 0
        grown = peak - self._before
        ended = ", ".join(ended.words for ended in self._job.running.starts.endings) or "nothing ended"
        told = f"memory grew by {grown >> 20} MiB; {kills} killed for memory; {ended}"
        return Evidence(grown > 20 * self._a_step, told)

    def gone(self) -> Evidence:
        """Whether nothing wakes the leak any more."""
        there = self._file.exists()
        return Evidence(not there, f"the leak {'is still awake' if there else 'sleeps'}")


def job(seed: int) -> Ticking:
    """110 steps of 40 ms, a checkpoint at each."""
    made = Job(Path(tempfile.mkdtemp()), seed, num_steps=110, limit=LIMIT)
    return Ticking(workload=made.workload, advance=made.advance, outcome=made.outcome, digest=made.digest,
                   close=made.close, subject=made)  # fmt: skip


def leaking(ticking: Ticking) -> Fault:
    """From now on every step leaks."""
    assert isinstance(ticking.subject, Job)
    return Leaking(ticking.subject, A_STEP)


CASES = (
    WatchedCase(
        name="a script leaks under a real limit", build=job, fault=leaking, at=6, lasts=math.inf, num_ticks=400,
        bounds=Bounds(detect_within=60),
    ),
)  # fmt: skip
