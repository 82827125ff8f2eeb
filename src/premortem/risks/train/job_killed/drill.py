"""Real training scripts under a real limit of their control group, which the kernel keeps by killing.

A job needs 110 MB, with a quarter of the batch 55; beside them a model idles that holds 170 MB all told, which the
kernel is told to spare. Unguarded, the pool starts a killed one again at once, as pools do, and gives it up when it
is killed again.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
import zlib
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from premortem.core.drill import Bounds
from premortem.faults.fault import Fault
from premortem.faults.group import GroupLimit, MemoryGroup
from premortem.risks.case import Ticking, WatchedCase
from premortem.stages.jobs.job import Job
from premortem.stages.jobs.pool import JobPool
from premortem.stages.jobs.workload import JobsWorkload

MB = 1_000_000
NUM_JOBS = 4
IDLE_MB = 150
MODEL_MB = 172
"""Of the whole process."""
LOOK_S = 0.1
SCRIPT = "premortem.risks.train.job_killed.small_job"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
UNTRAINED = math.log(10)
"""Nats: what a job that was never run, or not to its end, counts for."""


class Bench:
    """A pool in a memory group, looked at ten times a second until every job is over."""

    def __init__(self, seed: int) -> None:
        self._stack = ExitStack()
        self.group = self._stack.enter_context(MemoryGroup())
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="premortem-jobs-")))
        python = (sys.executable, "-m", SCRIPT)
        self.seeds = [NUM_JOBS * seed + number for number in range(NUM_JOBS)]
        jobs = [
            Job(name=f"job-{s}", command=(*python, str(self.folder), str(s)), environment=ONE_THREAD)
            for s in self.seeds
        ]
        idle = Job(name="model", command=(*python, "idle", str(IDLE_MB)), holds_model=True, is_protected=True)
        self.pool = JobPool([idle, *jobs], self.folder, slots=NUM_JOBS, group=self.group.group, restarts=1)
        self._stack.callback(self.pool.close)
        self.workload = JobsWorkload(self.pool)

    def advance(self, tick: int) -> list[float | None]:
        """Look, then wait for the next look; what is over needs no waiting."""
        row = self.workload.look()
        if not self.pool.is_over:
            time.sleep(LOOK_S)
        return row

    def losses(self) -> list[float]:
        """Of every job, in its order."""
        found = [self.folder / f"job-{seed}.json" for seed in self.seeds]
        return [json.loads(path.read_text())["loss"] if path.exists() else UNTRAINED for path in found]

    def outcome(self) -> float:
        """Mean final loss in nats over all jobs."""
        losses = self.losses()
        return sum(losses) / len(losses)

    def digest(self) -> str:
        """Of what the owner gets."""
        return f"{zlib.crc32(repr(self.losses()).encode()):08x}"

    def close(self) -> None:
        """End all that runs, remove group and folder."""
        self._stack.close()


def bench(seed: int) -> Ticking:
    """Four jobs that all start at once, beside a process that holds a model."""
    made = Bench(seed)
    return Ticking(
        workload=made.workload, advance=made.advance, outcome=made.outcome, subject=made, digest=made.digest,
        close=made.close,
    )  # fmt: skip


def limited(ticking: Ticking, megabytes: int) -> Fault:
    """On the whole group."""
    assert isinstance(ticking.subject, Bench)
    return GroupLimit(ticking.subject.group, megabytes * MB)


def case(name: str, megabytes: int) -> WatchedCase:
    """A limit as the jobs start. Until the first kill they must grow to it: that is most of the delay."""
    return WatchedCase(
        name=name, build=bench, fault=partial(limited, megabytes=megabytes), at=1, lasts=math.inf, num_ticks=600,
        bounds=Bounds(detect_within=100, tolerance=0.01),
    )  # fmt: skip


CASES = (
    case("four at once where two fit", MODEL_MB + 275),
    case("one alone is too large", MODEL_MB + 80),
    case("a model idles beside them", MODEL_MB + 22),
)
