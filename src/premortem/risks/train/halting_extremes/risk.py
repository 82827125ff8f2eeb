"""Halting extremes: the loss jumps far above its best and stays there.

What fails
    Say in two sentences what goes wrong, and what sets it off.

Why it hurts
    Say what its owner loses, and how soon.

How it is seen
    At every optimiser step, from the training loss (nats): above 10 × the best of the last 100 steps (RED); not
    finite (CRITICAL, at once).

Ladder
    cut the learning rate → restore the last good checkpoint. Cutting the rate is not tried on a loss that is not
    a number. When both are spent the run stops, and what was good is on disk.

Covered / not covered
    Covered: one jump that stays. Not covered: a slow rise; say here what else your detector cannot see.

Drill
    A small language model on the standard library's text: learning rate × 100 in mid-run.

Source
    Name the requirement, the paper with its year, or the incident that taught you this.
"""

from __future__ import annotations

from dataclasses import dataclass

from premortem.core.action import Override
from premortem.core.clock import ticks
from premortem.core.ladder import Relation, Rung
from premortem.core.risk import Risk, Watch
from premortem.parts.detectors import NonFinite, RatioToBest

JUMPED = frozenset({"loss jumped"})
ANYTHING = frozenset({"*"})


@dataclass(frozen=True)
class Params:
    """Thresholds, each with a default; a register's entry may set them. Counts in optimiser steps."""

    best_factor: float = 10.0
    best_window: int = 100
    cut: float = 0.1
    confirm: int = 12
    deadline: int = 24


def watches(p: Params) -> tuple[Watch, ...]:
    """A detector on a signal; the symptom is what rungs are matched against."""
    return (
        Watch("loss not finite", "loss", "not finite", NonFinite),
        Watch("loss above its best", "loss", "loss jumped",
              lambda: RatioToBest(factor=p.best_factor, window=p.best_window)),
    )  # fmt: skip


def rungs(p: Params) -> tuple[Rung, ...]:
    """From the cheapest to the one that loses steps."""
    return (
        Rung("cut the learning rate", "learning_rate", Override("scale", p.cut), JUMPED, tries=2,
             confirm=p.confirm, deadline=ticks(p.deadline)),
        Rung("restore the last good checkpoint", "weights", Override("choose", "last good"), ANYTHING,
             Relation.IRREVERSIBLE, tries=3, confirm=p.confirm, deadline=ticks(2 * p.deadline),
             condition="weights are finite"),
    )  # fmt: skip


def contingency(p: Params) -> Rung:
    """What is done when the ladder is spent."""
    return Rung(
        "stop with the weights safe", "run", Override("choose", "stopped: halting extremes"), ANYTHING, ends_run=True
    )


RISK = Risk("the loss jumps and stays there", "training", Params, watches, rungs, contingency)
