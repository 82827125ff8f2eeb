"""Halting at an extreme: a model that chooses its own depth halts at once, or never does.

What fails
    A model with learned halting (adaptive computation time) gives each puzzle one segment, or always as many as are
    allowed: a threshold set to an extreme, exploration switched off, a halting head that broke.

Why it hurts
    At once and without exploration, no puzzle is worked on twice: the model forgets how to go on from its own state,
    and its answer after all segments gets worse while the training loss still falls. Never costs compute only.

How it is seen
    At every optimiser step, from the share of puzzles that halted at their first segment: every one of them, in 10
    steps in a row that halted any (RED). Exploration makes that impossible in health, and from the first step on,
    when untrained models halt late. All at the last segment is YELLOW, recorded: early training is like that, and
    what it does to accuracy could not be measured.

Ladder
    set the halting threshold back → force exploration of halting → restore the last good checkpoint. Exploration
    makes a share of the puzzles go on for a random number of segments whatever the threshold says. When all are
    spent, a person decides; the run goes on.

Covered / not covered
    Covered: any model that notes ``halted_at_first`` and ``halted_at_max`` and offers its threshold (a difference
    of logits) and its exploration as controls. Not covered: a model that is meant to halt at once with no
    exploration; batches of fewer than eight puzzles, which halt at once together by chance (raise
    ``steps_at_once``); halting that is mediocre but not extreme.

Drill
    A small hierarchical reasoning model on Sudoku: in mid-run it halts at once, with no exploration. Its outcome is
    the share of unseen puzzles that it does not solve.

Source
    AF-1.4 (agent forge, risk 1.4: a halting threshold as extreme as 0.999). Halting by Q-learning with exploration:
    Wang et al. 2025, arXiv 2506.21734. Ponder cost collapsing to an extreme: Graves 2016, arXiv 1603.08983.
"""

from __future__ import annotations

from dataclasses import dataclass

from premortem.core.action import Override
from premortem.core.clock import ticks
from premortem.core.ladder import Relation, Rung
from premortem.core.risk import Risk, Watch
from premortem.parts.detectors import Frozen, Threshold

AT_ONCE = frozenset({"halts at once"})


@dataclass(frozen=True)
class Params:
    """Counts in optimiser steps; ``threshold`` in logits, as the model compares them; shares in 0..1."""

    steps_at_once: int = 10
    share_at_max: float = 0.999
    threshold: float = 0.0
    exploration: float = 0.2
    confirm: int = 5
    deadline: int = 100  # puzzles may all halt together: then only every sixteenth step tells anything


def watches(p: Params) -> tuple[Watch, ...]:
    """Both ends; optional, as most models have no halting, and the gap is reported."""
    return (
        Watch("halting at once", "halted_at_first", "halts at once",
              lambda: Frozen(repeats=p.steps_at_once, at=1.0), required=False),
        Watch("never halting", "halted_at_max", "never halts",
              lambda: Threshold(yellow=p.share_at_max), required=False),
    )  # fmt: skip


def rungs(p: Params) -> tuple[Rung, ...]:
    """What is set, then what can be forced, then what was learnt."""

    def choose(name: str, control: str, value: float) -> Rung:
        override = Override("choose", value)
        return Rung(name, control, override, AT_ONCE, confirm=p.confirm, deadline=ticks(p.deadline))

    return (
        choose("set the halting threshold back", "halting_threshold", p.threshold),
        choose("force exploration of halting", "halting_exploration", p.exploration),
        Rung("restore the last good checkpoint", "weights", Override("choose", "last good"), AT_ONCE,
             Relation.IRREVERSIBLE, confirm=p.confirm, deadline=ticks(2 * p.deadline),
             condition="weights are finite"),
    )  # fmt: skip


def contingency(p: Params) -> None:
    """None: the run learns something still; it is handed over to a person."""


RISK = Risk("halting goes to an extreme", "training", Params, watches, rungs, contingency)
