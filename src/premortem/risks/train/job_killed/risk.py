"""Jobs are killed because memory runs out.

What fails
    Several jobs share one machine or container. Together, or one alone, they take more than it has, and the kernel
    kills one of them: exit code 137 and not a line in its log.

Why it hurts
    What was not saved is lost. Started again under the same conditions it is killed again, and so are others: the
    night is over and half of the jobs are not done.

How it is seen
    At each look: jobs that ended since, killed for memory (by the counter of their control group, the kernel's log,
    exit code 137, or an error such as MemoryError) are RED. So is a job that is given up for it, and memory in use
    at 97 % of the tightest limit (settable).

Ladder
    run fewer jobs at once (half, twice at most; the others end in good order and wait) → accumulate gradients (a
    quarter of the batch at a time, the effective batch stays) → unload idle models. Each is kept while later ones
    are tried, and taken back after recovery, but for the last, which cannot be.

Covered / not covered
    Covered: any command that goes on from its own checkpoint; accumulation where it reads the settings that are
    handed down. Not covered: memory of devices, which a job's own guard watches; jobs that begin anew each time get
    no further than their longest run; a job that fails by an error of its own, which is reported only.

Drill
    Four real training scripts under a real limit of a control group: too many at once; one alone too large; a model
    that idles beside them. All must come to the same end.

Source
    UT-R006 (UltraThink: accelerator or host runs out of memory in training).
"""

from __future__ import annotations

from dataclasses import dataclass

from premortem.core.action import Override
from premortem.core.clock import ticks
from premortem.core.ladder import Relation, Rung
from premortem.core.risk import Risk, Watch
from premortem.parts.detectors import Threshold

KILLED = frozenset({"job killed"})


@dataclass(frozen=True)
class Params:
    """A tick is one look at the pool; the drill looks ten times a second."""

    red_share: float = 0.97
    share_of_slots: float = 0.5
    accumulate: float = 4.0
    settle: int = 3
    confirm: int = 15
    deadline: int = 30


def watches(p: Params) -> tuple[Watch, ...]:
    """Who was killed, who is given up, and how near the limit is."""
    return (
        Watch("killed job", "killed", "job killed", lambda: Threshold(red=0.5)),
        Watch("given up job", "given_up", "job killed", lambda: Threshold(red=0.5)),
        Watch("memory of the group", "memory_share", "job killed", lambda: Threshold(red=p.red_share), required=False),
        Watch("failed job", "failed", "job failed", lambda: Threshold(yellow=0.5), required=False),
    )


def rungs(p: Params) -> tuple[Rung, ...]:
    """Less at once, less of each, less beside them."""
    settle, deadline = ticks(p.settle), ticks(p.deadline)
    return (
        Rung("run fewer jobs at once", "slots", Override("scale", p.share_of_slots), KILLED, tries=2,
             settle=settle, confirm=p.confirm, deadline=deadline),
        Rung("accumulate gradients", "accumulate", Override("scale", p.accumulate), KILLED,
             settle=settle, confirm=p.confirm, deadline=deadline),
        Rung("unload idle models", "idle_models", Override("choose", "unloaded"), KILLED, Relation.IRREVERSIBLE,
             settle=settle, confirm=p.confirm, deadline=deadline),
    )  # fmt: skip


def contingency(p: Params) -> Rung:
    """Slow, and it comes to its end."""
    return Rung(
        "train on the CPU, one after another", "placement", Override("choose", "serial on the cpu"), KILLED,
        Relation.IRREVERSIBLE, settle=ticks(p.settle), confirm=p.confirm, deadline=ticks(p.deadline),
    )  # fmt: skip


RISK = Risk("jobs are killed because memory runs out", "jobs", Params, watches, rungs, contingency)
