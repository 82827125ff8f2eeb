"""The guard itself is the fault: it skips for ever, or nothing changes any more.

What fails
    Every step is skipped, or steps are applied and no weight moves: a frozen run that looks calm.

Why it hurts
    A run that skips to its end exits with success and an untrained model. Well-known guards did exactly that: 129
    steps skipped after one NaN, or all of them, without a line in the log.

How it is seen
    Skipped steps: 8 in a row, or more than half of the last 50 (RED). Sampled weights that did not move in 20
    observations although steps were applied (RED).

Ladder
    restore the last good checkpoint. Skips that go on after it come from the data or the loss itself, and the run
    stops.

Covered / not covered
    Covered: skips of the guard and of a gradient scaler; a learning rate of zero; frozen parameters among those
    sampled (64 numbers of up to 8 tensors). Not covered: one frozen layer among many; progress in the wrong direction.

Drill
    A small language model whose every batch is poisoned from a step on.

Source
    Law 7; AF-1.4 (NaN rows). A guard that fires for ever was found in DeepSpeed, OLMo-core and others.
"""

from __future__ import annotations

from dataclasses import dataclass

from premortem.core.action import Override
from premortem.core.clock import ticks
from premortem.core.ladder import Relation, Rung
from premortem.core.risk import Risk, Watch
from premortem.parts.detectors import Frozen, Streak

STUCK = frozenset({"endless skipping", "frozen"})


@dataclass(frozen=True)
class Params:
    """Counts in optimiser steps."""

    skips_in_a_row: int = 8
    skip_window: int = 50
    skip_share: float = 0.5
    frozen_after: int = 20
    confirm: int = 12
    deadline: int = 40


def watches(p: Params) -> tuple[Watch, ...]:
    """Skips, and applied steps that change nothing."""
    return (
        Watch("skips", "skipped", "endless skipping",
              lambda: Streak(in_row=p.skips_in_a_row, window=p.skip_window, share=p.skip_share)),
        Watch("frozen weights", "weight_change", "frozen",
              lambda: Frozen(repeats=p.frozen_after, at=0.0), required=False),
    )  # fmt: skip


def rungs(p: Params) -> tuple[Rung, ...]:
    """Weights or settings of a moment when all was well."""
    return (
        Rung("restore the last good checkpoint", "weights", Override("choose", "last good"), STUCK,
             Relation.IRREVERSIBLE, tries=1, confirm=p.confirm, deadline=ticks(p.deadline), taken_back=True),
    )  # fmt: skip


def contingency(p: Params) -> Rung:
    """Stop: a run that learns nothing must not look like one that does."""
    return Rung("stop with the best checkpoint", "run", Override("choose", "stopped: nothing is learnt any more"),
                STUCK, ends_run=True)  # fmt: skip


RISK = Risk("the guard itself is the fault", "training", Params, watches, rungs, contingency)
