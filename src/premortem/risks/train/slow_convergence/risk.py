"""Training converges slowly, or stops to.

What fails
    A learning rate too low, shuffled labels, a halting threshold at its extreme: the loss hardly falls.

Why it hurts
    The budget is spent, and the model is worse than the same budget could have made it.

How it is seen
    From the training loss in nats: relative improvement below 0.01 over 100 steps, or variance below 0.001 over 50
    steps (YELLOW only: 81 % of healthy windows look so); moving along the persisted curve of a healthy run at less
    than a fifth of its pace over 100 steps (RED). Without such a curve this risk never opens an incident: a flat
    loss alone is no proof.

Ladder
    raise the learning rate, else lower the learning rate: alternatives, each kept only when the pace comes
    back, undone before the next.

Covered / not covered
    Covered: slower than a run known to be healthy. Not covered: the first run of its kind, which has nothing to be
    compared with; better final losses that a longer schedule would give.

Drill
    A small language model whose learning rate falls to a thousandth in mid-run, beside its healthy curve.

Source
    HRM-9.1.1 (relative improvement over the window); AF-1.4 (variance of the last 50 losses; a plateau warns only).
"""

from __future__ import annotations

from dataclasses import dataclass

from premortem.core.action import Override
from premortem.core.clock import ticks
from premortem.core.ladder import Relation, Rung
from premortem.core.risk import Risk, Watch
from premortem.parts.curve import Curve, read_curve
from premortem.parts.detectors import LowVariance, Plateau
from premortem.parts.detectors.progress import Progress

SLOW = frozenset({"slow"})


@dataclass(frozen=True)
class Params:
    """``baseline_curve``: a file that ``GuardedTraining.keep_curve`` wrote; none when empty."""

    window: int = 100
    min_improvement: float = 0.01
    variance_window: int = 50
    min_variance: float = 0.001
    baseline_curve: str = ""
    pace: float = 0.2
    pace_window: int = 100
    pace_memory: int = 20
    pace_left: float = 0.3  # share of the curve's descent below which there is no pace to speak of
    by: float = 10.0
    tries: int = 3
    confirm: int = 10
    deadline: int = 40


def watches(p: Params) -> tuple[Watch, ...]:
    """A flat loss is only recorded; one above a healthy run's curve is not."""
    still = Watch("still loss", "loss", "flat",
                  lambda: LowVariance(window=p.variance_window, below=p.min_variance), required=False)  # fmt: skip
    flat = Watch("flat loss", "loss", "flat",
                 lambda: Plateau(window=p.window, improvement=p.min_improvement), required=False)  # fmt: skip
    if not p.baseline_curve:
        return (flat, still)
    curve = read_curve(p.baseline_curve)
    return (flat, still, Watch("pace along the healthy curve", "loss", "slow", lambda: _pace(curve, p)))


def _pace(curve: Curve, p: Params) -> Progress:
    detector = Progress(pace=p.pace, window=p.pace_window, memory=p.pace_memory, left=p.pace_left)
    detector.rebase(curve)
    return detector


def rungs(p: Params) -> tuple[Rung, ...]:
    """Up and down tried, kept only when it helps."""

    def factor(name: str, by: float) -> Rung:
        return Rung(name, "learning_rate", Override("scale", by), SLOW, Relation.ALTERNATIVE,
                    tries=p.tries, confirm=p.confirm, deadline=ticks(p.deadline))  # fmt: skip

    return factor("raise the learning rate", p.by), factor("lower the learning rate", 1 / p.by)


def contingency(p: Params) -> None:
    """None: slow is no reason to stop a run; it is handed over to a person."""


RISK = Risk("training converges slowly", "training", Params, watches, rungs, contingency)
