"""The file system that a command writes to fills up.

What fails
    Free space runs out while a command writes: checkpoints, logs, somebody else's data.

Why it hurts
    A half-written checkpoint in the place of a whole one, and a command that dies of it, or goes on and saves
    nothing.

How it is seen
    Free space of the watched folder's file system at every look. RED below ``pause_below_gb``.

Ladder
    pause it. Every process is stopped (SIGSTOP) before space is gone; nothing is lost, and whoever cleans up has the
    time to. When there is room again and it stays, the pause is taken back and verified.

Covered / not covered
    Covered: any command; space taken by others too. Not covered: quotas that the file system does not report as free
    space; deleting anything: the supervisor does not know what may go.

Drill
    A script that saves to a real, small file system, which somebody fills and clears again.

Source
    AF-I.2 (storage full during training), for commands that premortem did not write.
"""

from __future__ import annotations

from dataclasses import dataclass

from premortem.core.action import Override
from premortem.core.clock import ticks
from premortem.core.ladder import Rung
from premortem.core.risk import Risk, Watch
from premortem.parts.detectors import Threshold

FULL = frozenset({"storage full"})


@dataclass(frozen=True)
class Params:
    """Space in GiB; ``confirm`` and ``deadline`` in looks (0.25 s)."""

    pause_below_gb: float = 0.25
    confirm: int = 8
    deadline: int = 14_400


def watches(p: Params) -> tuple[Watch, ...]:
    """Free space."""
    return (
        Watch("free space", "free_space", "storage full",
              lambda: Threshold(red=p.pause_below_gb, clear=0.1 * p.pause_below_gb, below=1.0), required=False),
    )  # fmt: skip


def rungs(p: Params) -> tuple[Rung, ...]:
    """Reversible, and taken back when there is room."""
    return (Rung("pause it", "paused", Override("choose", 1.0), FULL, confirm=p.confirm, deadline=ticks(p.deadline)),)


def contingency(p: Params) -> Rung:
    """End it in good order: nobody made room for an hour."""
    return Rung("give up", "run", Override("choose", "the storage is full"), FULL, ends_run=True)


RISK = Risk("the file system that a command writes to fills up", "process", Params, watches, rungs, contingency)
