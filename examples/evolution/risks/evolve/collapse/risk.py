"""A population under evolution loses its diversity, or its best.

What fails
    Mutation shrinks too fast or does nothing, and all members become one; or a wrong restore loses what was found.

Why it hurts
    The search goes on and finds nothing more: hours of evaluations of one and the same member, and no error.

How it is seen
    At every generation: the spread of a gene over the members below `diversity_red`; the best of the generation
    `behind_red` times worse than the best ever seen.

Ladder
    raise mutation (a least width, taken off after recovery) → inject immigrants → restart from the archive. What was
    lost cannot be mutated back: for that only the restart applies, and the others are passed over.

Covered / not covered
    Covered: collapse in genes. Not covered: a diverse population whose members all do the same.

Drill
    `python examples/evolution/main.py`: mutation that shrinks 40 times too fast, mutation that does nothing, a
    population overwritten by strangers.

Source
    Eiben and Smith, Introduction to Evolutionary Computing, 2nd edition 2015, chapter 5 (premature convergence).
"""

from __future__ import annotations

from dataclasses import dataclass

from premortem.core.action import Override
from premortem.core.clock import ticks
from premortem.core.ladder import Relation, Rung
from premortem.core.risk import Risk, Watch
from premortem.parts.detectors import Threshold

COLLAPSED, LOST = frozenset({"collapsed"}), frozenset({"best is lost"})


@dataclass(frozen=True)
class Params:
    """In the genes' own unit; `confirm` and `deadline` in generations."""

    diversity_red: float = 0.05
    behind_red: float = 1.5
    least_width: float = 0.5
    confirm: int = 5
    deadline: int = 8


def watches(p: Params) -> tuple[Watch, ...]:
    """Spread, and what was found."""
    return (
        Watch("spread", "diversity", "collapsed", lambda: Threshold(red=p.diversity_red, below=1.0)),
        Watch("found", "behind", "best is lost", lambda: Threshold(red=p.behind_red)),
    )


def rungs(p: Params) -> tuple[Rung, ...]:
    """From the one that costs nothing to the one that begins again."""
    deadline, soon = ticks(p.deadline), ticks(1)
    return (
        Rung("raise mutation", "mutation", Override("choose", p.least_width), COLLAPSED, settle=soon,
             confirm=p.confirm, deadline=deadline),
        Rung("inject immigrants", "immigrants", Override("choose", "strangers"), COLLAPSED, Relation.IRREVERSIBLE,
             tries=2, settle=soon, confirm=p.confirm, deadline=deadline),
        Rung("restart from the archive", "members", Override("choose", "the best ever"), COLLAPSED | LOST,
             Relation.IRREVERSIBLE, tries=2, settle=soon, confirm=p.confirm, deadline=deadline),
    )  # fmt: skip


RISK = Risk("a population loses its diversity or its best", "population", Params, watches, rungs, lambda p: None)
