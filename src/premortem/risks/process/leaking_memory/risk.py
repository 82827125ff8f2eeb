"""A command takes memory until its limit kills it.

What fails
    Memory of a command and all that it started grows steadily, and reaches the limit that was set, the limit of its
    control group, or what the machine has left.

Why it hurts
    The kernel kills it without a word (exit 137): all since the last checkpoint is lost, and on a machine without
    a limit of its own the kernel may choose somebody else.

How it is seen
    At every look: the time until the limit at the present pace, where growth kept its pace over the last seconds
    and half of the limit is used. RED when it is less than ``stop_before_s``, which leaves time to stop in good
    order. Memory over the limit: YELLOW at 85 %, RED at 97 %. A kill for memory is told from a kill by a person by the
    group's own count of kills. Without headway (no further than the start before) a plain start is not tried again.

Ladder
    start it again → start it again with less memory → with much less memory. The first is SIGTERM, a time of grace,
    SIGKILL, and a new start, which goes on from its own checkpoint. The others also hand down settings (fewer arenas
    of malloc, half or a quarter of the examples at once with as much more accumulation, the user's own edits).
    What was handed down stays until the supervisor ends: taking it back would cost one more restart.

Covered / not covered
    Covered: any command, unchanged; a limit kept by the kernel in a group of its own where rights allow, else
    watched. Not covered: a leap past the limit between two looks (it is killed, and that is recognised); a command
    that keeps nothing and begins anew at each start.

Drill
    A script that leaks and keeps a checkpoint, under a limit that the kernel really keeps.

Source
    HRM-9.1.2, AF-1.3 and UT-R006, for commands that premortem did not write.
"""

from __future__ import annotations

from dataclasses import dataclass

from premortem.core.action import Override
from premortem.core.clock import ticks
from premortem.core.ladder import Relation, Rung
from premortem.core.risk import Risk, Watch
from premortem.parts.detectors import Threshold

LEAK = frozenset({"memory runs out"})
KILLED = frozenset({"ended for memory"})
DEVICE = frozenset({"ended for device memory"})
STUCK = frozenset({"no headway"})
RUNS = "the command runs"


@dataclass(frozen=True)
class Params:
    """Times in seconds, shares of the limit; ``confirm`` and ``deadline`` in looks."""

    stop_before_s: float = 20.0
    share_noted: float = 0.85
    share_red: float = 0.97
    tries: int = 20
    confirm: int = 8
    deadline: int = 12


def watches(p: Params) -> tuple[Watch, ...]:
    """What is coming, what is there, and what has happened."""
    return (
        Watch("time to the limit", "seconds_to_limit", "memory runs out",
              lambda: Threshold(red=p.stop_before_s, below=1.0)),
        Watch("share of the limit", "memory_share", "memory runs out",
              lambda: Threshold(yellow=p.share_noted, red=p.share_red), required=False),
        Watch("killed for memory", "out_of_memory", "ended for memory", lambda: Threshold(critical=0.5)),
        Watch("device memory spent", "out_of_device_memory", "ended for device memory",
              lambda: Threshold(critical=0.5)),
        Watch("headway", "no_headway", "no headway", lambda: Threshold(critical=0.5)),
    )  # fmt: skip


def rungs(p: Params) -> tuple[Rung, ...]:
    """A fresh process first, then one that asks for less."""
    deadline, every = ticks(p.deadline), LEAK | KILLED | DEVICE | STUCK

    def less(name: str, level: float) -> Rung:
        return Rung(name, "less_memory", Override("choose", level), every, Relation.IRREVERSIBLE,
                    confirm=p.confirm, deadline=deadline, condition=RUNS)  # fmt: skip

    return (
        Rung("start it again", "process", Override("choose", "started again before the limit"), LEAK | KILLED,
             Relation.IRREVERSIBLE, tries=p.tries, confirm=p.confirm, deadline=deadline, condition=RUNS),
        less("start it again with less memory", 1.0),
        less("start it again with much less memory", 2.0),
        Rung("start it again on the CPU", "cpu", Override("choose", 1.0), DEVICE | STUCK, Relation.IRREVERSIBLE,
             confirm=p.confirm, deadline=deadline, condition=RUNS),
    )  # fmt: skip


def contingency(p: Params) -> Rung:
    """Give up where it has ended; one that still runs may reach its end before the limit, so it is left alone."""
    return Rung("give up", "run", Override("choose", "memory does not suffice"), KILLED | DEVICE | STUCK, ends_run=True)


RISK = Risk("a command takes memory until its limit kills it", "process", Params, watches, rungs, contingency)
