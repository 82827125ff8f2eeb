"""A command ends badly, and the same start would only end in the same way.

What fails
    A command crashes, is killed, or loses its device or the network. A plain ``while true`` around it starts it
    again for ever.

Why it hurts
    One crash costs the work since the last checkpoint. A loop costs everything: a corrupt checkpoint once gave 44
    identical restarts of 90 seconds each, every one of them billed, and nobody was told.

How it is seen
    From the exit code, the group's count of kills for memory, and the last lines of its output, classified. Two
    endings are the same when code and last error agree but for numbers, addresses and times, under the same
    settings, and the later start got no further: no higher step number in its output, no change of a watched file,
    and it did not last three times as long. The third of them in a row is a loop.

Ladder
    start it again (after a pause that doubles while nothing is gained) → start it again offline, where a service did
    not answer → start it again on the CPU, where the device failed. A loop, or the last of the restarts, ends it at
    once: what no rung mends is not tried.

Covered / not covered
    Covered: any command. Not covered: one whose every crash reads differently (the cap on all restarts ends it); one
    that prints ever higher step numbers and saves nothing.

Drill
    A script that crashes now and then and goes on from its checkpoint; unguarded its first crash is its end.

Source
    Megatron-LM issue 5281 (44 identical restart cycles after one corrupt checkpoint); NVIDIA resiliency extension
    (stop after three cycles without progress).
"""

from __future__ import annotations

from dataclasses import dataclass

from premortem.core.action import Override
from premortem.core.clock import ticks
from premortem.core.ladder import Relation, Rung
from premortem.core.risk import Risk, Watch
from premortem.parts.detectors import Threshold

CRASHED = frozenset({"crashed"})
UNREACHABLE = frozenset({"a service did not answer"})
LOST = frozenset({"the device failed"})
TRIED = frozenset({"the same start was tried"})
RUNS = "the command runs"


@dataclass(frozen=True)
class Params:
    """``same_endings`` in a row without progress; ``confirm`` and ``deadline`` in looks."""

    same_endings: int = 3
    tries: int = 20
    confirm: int = 8
    deadline: int = 12


def watches(p: Params) -> tuple[Watch, ...]:
    """How it ended, and whether that is a loop."""

    def flag() -> Threshold:
        return Threshold(critical=0.5)

    return (
        Watch("crash", "crashed", "crashed", flag),
        Watch("network", "unreachable", "a service did not answer", flag),
        Watch("device", "device_lost", "the device failed", flag),
        Watch("same ending", "same_ending", "a loop", lambda: Threshold(critical=p.same_endings - 0.5)),
        Watch("same start", "tried_enough", "the same start was tried", flag),
        Watch("restarts", "no_restart_left", "no restart is left", flag),
    )  # fmt: skip


def rungs(p: Params) -> tuple[Rung, ...]:
    """As it was; then without what failed."""
    deadline = ticks(p.deadline)

    def without(name: str, control: str, mends: frozenset[str]) -> Rung:
        return Rung(name, control, Override("choose", 1.0), mends, Relation.IRREVERSIBLE,
                    confirm=p.confirm, deadline=deadline, condition=RUNS)  # fmt: skip

    return (
        Rung("start it again", "process", Override("choose", "started again"), CRASHED | UNREACHABLE | LOST,
             Relation.IRREVERSIBLE, tries=p.tries, confirm=p.confirm, deadline=deadline, condition=RUNS),
        without("start it again offline", "offline", UNREACHABLE | TRIED),
        without("start it again on the CPU", "cpu", LOST | TRIED),
    )  # fmt: skip


def contingency(p: Params) -> Rung:
    """End with a clear report: the same start again would only repeat it."""
    return Rung("give up", "run", Override("choose", "the same end again and again, or no restart left"),
                frozenset({"*"}), ends_run=True)  # fmt: skip


RISK = Risk("a command ends badly, again and again", "process", Params, watches, rungs, contingency)
