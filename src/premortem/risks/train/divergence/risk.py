"""Training diverges: the loss explodes, turns NaN, or climbs away and does not come back.

What fails
    A learning rate too high, a poisoned batch, corrupt rows, a gradient filter too strong. The loss rises, or
    loss, gradient or weights stop being numbers.

Why it hurts
    One NaN element in one gradient makes every weight NaN at the next step, and everything learnt so far is lost.
    A run that climbs away burns its budget and may save its bad weights over its good ones.

How it is seen
    At every optimiser step, from the training loss (nats) and the gradient's 2-norm before clipping: not finite
    (CRITICAL, at once); loss above 10 × the best of the last 100 steps, three times in a row (RED); a sustained rise
    of loss or gradient norm over the recent level, by two cumulative sums on log values (RED); a rising slope of the
    last 100 losses, beyond +0.01 a step (RED); one step far outside (YELLOW, recorded: most come from a batch and
    heal alone; a gradient norm far above the healthy one is skipped at once, and no rung is climbed for it).

Ladder
    skip the offending batch → warm up → cut the learning rate → clip gradients → soften the gradient filter
    → halve the learning rate → restore the last good checkpoint. A step that is not finite has not reached the
    weights: it is skipped before the optimiser, scheduler, average and filter are called. Cutting the learning
    rate is not tried on weights that are NaN. After a restore the run goes on with fresh data; one that did not help
    is taken back, unless the restored weights do clearly better.

Covered / not covered
    Covered: any torch optimiser, accumulation, scaler, weight average, gradient filter. Not covered: a loss that
    is wrong but falls; divergence of one layer that neither loss nor norm shows; a warm-up that is missing at the
    start of the run, which stunts it while the loss still falls (nothing healthy was seen before; a healthy curve
    for slow convergence is what could show it); without a checkpoint folder nothing can be restored, and the
    report says so.

Drill
    A small language model on the standard library's text: learning rate × 100 in mid-run; a poisoned batch.

Source
    HRM-9.1.1 (hierarchical reasoning model, technical risks 9.1.1); AF-1.4 (agent forge, risk 1.4). Shift: Page
    1954. Gradient norm leads the loss by 3-4 steps: BLOOM-176B chronicles.
"""

from __future__ import annotations

from dataclasses import dataclass

from premortem.core.action import Override
from premortem.core.clock import ticks
from premortem.core.ladder import Relation, Rung
from premortem.core.risk import Risk, Watch
from premortem.parts.detectors import (
    NonFinite,
    RatioToBest,
    Rising,
    Threshold,
    gradient_norm_detectors,
    training_loss_detectors,
)

DIVERGING = frozenset({"divergence"})
ANY = frozenset({"divergence", "not finite", "broken weights", "spike"})


@dataclass(frozen=True)
class Params:
    """Thresholds; counts in optimiser steps."""

    best_factor: float = 10.0
    best_window: int = 100
    best_memory: int = 12  # of a noisy loss the luckiest batch is no reference
    best_in_row: int = 3
    rising_slope: float = 0.01
    rising_window: int = 100
    rising_clip: float = 3.0  # means of the window: one wild batch is no slope
    gradient_width: float = 1.0  # log units: a healthy norm may double while a model memorises
    max_norm: float = 1.0
    warm_up_steps: int = 50
    cut: float = 0.1
    confirm: int = 12
    deadline: int = 24


def watches(p: Params) -> tuple[Watch, ...]:
    """Three channels: not finite, single steps, sustained shifts."""
    return (
        Watch("loss not finite", "loss", "not finite", NonFinite),
        Watch("gradient not finite", "grad_norm", "not finite", NonFinite, required=False),
        Watch("weights not finite", "nonfinite_weights", "broken weights", lambda: Threshold(critical=0.5)),
        Watch("loss above its best", "loss", "divergence",
              lambda: RatioToBest(factor=p.best_factor, window=p.best_window, memory=p.best_memory,
                                  in_row=p.best_in_row)),
        Watch("loss shift", "loss", "divergence", lambda: training_loss_detectors()["shift"],
              required=False),
        Watch("rising loss", "loss", "divergence",
              lambda: Rising(slope=p.rising_slope, window=p.rising_window, clip=p.rising_clip),
              required=False),
        Watch("gradient shift", "grad_norm", "divergence",
              lambda: gradient_norm_detectors(width=p.gradient_width)["shift"], required=False),
        Watch("loss spike", "loss", "spike", lambda: training_loss_detectors()["spike"], required=False),
        Watch("gradient spike", "grad_norm", "spike", lambda: gradient_norm_detectors()["spike"], required=False),
    )  # fmt: skip


def rungs(p: Params) -> tuple[Rung, ...]:
    """From the cheapest to the one that loses steps."""

    def rung(name: str, control: str, override: Override, mends: frozenset[str] = DIVERGING, tries: int = 1) -> Rung:
        return Rung(name, control, override, mends, tries=tries, confirm=p.confirm, deadline=ticks(p.deadline))

    return (
        Rung("skip the offending batch", "batch", Override("choose", "skipped"), frozenset({"not finite", "spike"}),
             Relation.IRREVERSIBLE, tries=3, settle=ticks(0), confirm=p.confirm, deadline=ticks(p.deadline),
             condition="weights are finite"),
        rung("warm up", "warm_up", Override("choose", float(p.warm_up_steps))),
        rung("cut the learning rate", "learning_rate", Override("scale", p.cut), tries=2),
        rung("clip gradients", "max_norm", Override("cap", p.max_norm)),
        rung("soften the gradient filter", "gradient_filter", Override("scale", 0.1), tries=2),
        rung("halve the learning rate", "learning_rate", Override("scale", 0.5)),
        Rung("restore the last good checkpoint", "weights", Override("choose", "last good"), ANY,
             Relation.IRREVERSIBLE, tries=3, confirm=p.confirm, deadline=ticks(2 * p.deadline),
             condition="weights are finite", taken_back=True),
    )  # fmt: skip


def contingency(p: Params) -> Rung:
    """Stop: what was good is on disk, verified, and stays there."""
    return Rung("stop with the weights safe", "run", Override("choose", "stopped: training diverges"),
                ANY, ends_run=True)  # fmt: skip


RISK = Risk("training diverges", "training", Params, watches, rungs, contingency)
