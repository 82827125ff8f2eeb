"""A command is there and does nothing: it hangs, or somebody stopped it.

What fails
    A deadlock, a read that never returns, a lost lock; or every process of it is stopped (SIGSTOP) and nobody lets
    it go on.

Why it hurts
    No exit code, no line in the log: the machine is paid for and idle until somebody looks, which may be Monday.

How it is seen
    Silence is the time without a byte of output and without processor time (less than 1 % of one processor), or the
    age of a heartbeat file where one is named. RED after the time that the user gave; recorded (YELLOW) after ten
    minutes where none was given, as some commands wait for good reason. A stop is seen by the state of the
    processes, and counts apart. Output that its reader does not take, and a pause by the supervisor, are no silence.

Ladder
    wake it (SIGCONT, where it is stopped) → start it again: SIGTERM, a time of grace, SIGKILL, a new start.

Covered / not covered
    Covered: any command. Not covered: one that hangs and burns processor time, as a collective that spins does: name a
    heartbeat file, or a step number in its log does it in a guarded training run.

Drill
    A script that is stopped in mid-run, and one that waits for ever on a lock.

Source
    Law 2 (silence is never health); hangs of collectives in NVIDIA's resiliency extension and the m4 chronicles.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import nan

from premortem.core.action import Override
from premortem.core.clock import ticks
from premortem.core.ladder import Relation, Rung
from premortem.core.risk import Risk, Watch
from premortem.parts.detectors import Threshold

SILENT, STOPPED = frozenset({"silent"}), frozenset({"stopped"})
RUNS = "the command runs"


@dataclass(frozen=True)
class Params:
    """Seconds; 0 for ``silent_s`` records silence only. ``confirm`` and ``deadline`` in looks."""

    silent_s: float = 0.0
    noted_s: float = 600.0
    tries: int = 3
    confirm: int = 8
    deadline: int = 12


def watches(p: Params) -> tuple[Watch, ...]:
    """Silence, and a stop."""
    red = p.silent_s if p.silent_s > 0 else nan
    noted = nan if p.silent_s > 0 else p.noted_s
    return (
        Watch("silence", "silence", "silent", lambda: Threshold(yellow=noted, red=red)),
        Watch("stop", "stopped", "stopped", lambda: Threshold(yellow=noted, red=red)),
    )


def rungs(p: Params) -> tuple[Rung, ...]:
    """The mildest first: a stopped command loses nothing when it is let go on."""
    deadline = ticks(p.deadline)
    return (
        Rung("wake it", "stopped", Override("choose", "let go on"), STOPPED, Relation.IRREVERSIBLE,
             confirm=p.confirm, deadline=deadline, condition=RUNS),
        Rung("start it again", "process", Override("choose", "started again"), SILENT | STOPPED,
             Relation.IRREVERSIBLE, tries=p.tries, confirm=p.confirm, deadline=deadline, condition=RUNS),
    )  # fmt: skip


def contingency(p: Params) -> Rung:
    """End it: what hangs at the same place each time is not mended by one more start."""
    return Rung("give up", "run", Override("choose", "it hangs again and again"), SILENT | STOPPED, ends_run=True)


RISK = Risk("a command is there and does nothing", "process", Params, watches, rungs, contingency)
