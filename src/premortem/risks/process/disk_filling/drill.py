"""A real, small file system that somebody else fills in mid-run, and clears again some seconds later."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

from premortem.core.drill import Bounds
from premortem.faults.disk import FilledDisk, FullTmpfs
from premortem.faults.disturbance import Disturbance
from premortem.faults.fault import Evidence, Fault, NotPermitted
from premortem.risks.case import Ticking, WatchedCase
from premortem.stages.process.job import Job

MIB = 1 << 20
SIZE, LEFT, LOG = 48 * MIB, 2 * MIB, 160 << 10
PAUSE_BELOW_GB = 4 / 1024


class Refused(Disturbance):
    """Stands in where no file system may be mounted: the drill is inconclusive, and says why."""

    name = "filled file system"

    def __init__(self, why: str) -> None:
        self._why = why

    def _apply(self) -> None:
        raise NotPermitted(self._why)

    def _undo(self) -> None:
        """Nothing was done."""

    def observed(self) -> Evidence:
        """Unknown."""
        return Evidence(None, self._why)

    def gone(self) -> Evidence:
        """Unknown."""
        return Evidence(None, self._why)


def job(seed: int) -> Ticking:
    """80 steps of 40 ms; each saves a checkpoint and adds to a log, on a tmpfs of its own."""
    stack = ExitStack()
    try:
        folder = stack.enter_context(FullTmpfs(SIZE, leave_bytes=None)).folder
    except NotPermitted:
        folder = Path(tempfile.mkdtemp())
    made = Job(folder, seed, num_steps=80, log_bytes=LOG)

    def close() -> None:
        made.close()
        stack.close()

    return Ticking(workload=made.workload, advance=made.advance, outcome=made.outcome, digest=made.digest,
                   close=close, subject=made)  # fmt: skip


def filled(ticking: Ticking) -> Fault:
    """Somebody else's data takes all but 2 MiB."""
    assert isinstance(ticking.subject, Job)
    if not ticking.subject.folder.is_mount():
        return Refused("no small file system may be mounted here: run as root, or allow user namespaces")
    return FilledDisk(ticking.subject.folder, leave_bytes=LEFT)


CASES = (
    WatchedCase(
        name="the file system fills and is cleared", build=job, fault=filled, at=10, lasts=35, num_ticks=300,
        bounds=Bounds(detect_within=5), params={"process/disk-filling": {"pause_below_gb": PAUSE_BELOW_GB}},
    ),
)  # fmt: skip
