"""The storage for checkpoints fills up.

What fails
    The file system that takes the checkpoints runs full in mid-write.

Why it hurts
    The usual save over the last file destroys the previous good checkpoint and leaves half of the new one: a
    restart then has nothing, or loads something broken.

How it is seen
    Every 16 steps: free space in GiB, and free space over the need of the next checkpoint. Below 1.5 × the need
    or 2 GB RED, below 0.5 GB CRITICAL (settable). A save that fails is recorded at once
    (YELLOW) and tried again at the next turn; three in a row are RED.

Ladder
    delete old checkpoints (the newest 3 stay, never a good or protected one) → delete intermediates. Deleting is
    irreversible and touches nothing that a good mark, a protection or an open incident points to.

Covered / not covered
    Covered: a bundle is written under a new name, flushed, verified and renamed, so a full disk never leaves a
    loadable half. Not covered: space that other programs take; quotas that the file system does not report as
    free space are seen only when the write fails.

Drill
    A small language model that saves to a real, small file system, which really fills up.

Source
    AF-I.2 (agent forge, infrastructure: storage full during training).
"""

from __future__ import annotations

from dataclasses import dataclass

from premortem.core.action import Override
from premortem.core.clock import ticks
from premortem.core.ladder import Relation, Rung
from premortem.core.risk import Risk, Watch
from premortem.parts.detectors import Threshold

FULL = frozenset({"storage full"})


@dataclass(frozen=True)
class Params:
    """Space in GB as the source counts it; read against GiB, which is the stricter."""

    free_factor: float = 1.5
    prune_below_gb: float = 2.0
    stop_below_gb: float = 0.5
    keep: int = 3
    failed_saves: int = 3
    confirm: int = 4
    deadline: int = 40


def watches(p: Params) -> tuple[Watch, ...]:
    """Absolute space, and space over need."""
    return (
        Watch("free space", "free_space", "storage full",
              lambda: Threshold(red=p.prune_below_gb, critical=p.stop_below_gb, below=1.0), required=False),
        Watch("space over need", "space_factor", "storage full",
              lambda: Threshold(red=p.free_factor, below=1.0), required=False),
        Watch("failed save", "failed_saves", "storage full", lambda: Threshold(yellow=0.5, red=p.failed_saves - 0.5)),
    )  # fmt: skip


def rungs(p: Params) -> tuple[Rung, ...]:
    """What may go, oldest first."""
    settle, deadline = ticks(17), ticks(17 + p.deadline)  # the disk is asked every 16 steps
    return (
        Rung("delete old checkpoints", "checkpoints", Override("choose", f"keep {p.keep}"), FULL,
             Relation.IRREVERSIBLE, tries=2, settle=settle, confirm=p.confirm, deadline=deadline),
        Rung("delete intermediates", "intermediates", Override("choose", "deleted"), FULL,
             Relation.IRREVERSIBLE, settle=settle, confirm=p.confirm, deadline=deadline),
    )  # fmt: skip


def contingency(p: Params) -> Rung:
    """Stop before anything is lost; the last checkpoint is valid."""
    return Rung("stop cleanly", "run", Override("choose", "stopped: the storage is full"), FULL, ends_run=True)


RISK = Risk("the storage for checkpoints fills up", "training", Params, watches, rungs, contingency)
