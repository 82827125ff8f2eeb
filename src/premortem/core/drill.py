"""A drill's rule: what three runs on the same seeds prove, and what they do not.

Pure: the arms are run elsewhere. Every seed must pass every clause and the worst seed is printed (kernel
decision 10). Credit needs a fault that was observed, an unguarded run that was harmed, and a fault that was gone
at the end (law 4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum


class ProofVerdict(Enum):
    """What a drill says. ``INCONCLUSIVE`` is never passed."""

    PROVEN = "proven"
    NOT_PROVEN = "not proven"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What the guarded run must reach.

    Attributes:
        detect_within: ticks from the fault's onset to the first RED finding.
        tolerance: relative excess over the baseline's mean outcome; two standard deviations over the seeds are
            added, one-sided.
        absolute: the least excess that counts, in the outcome's unit: a baseline of exactly 0 has no relative one.
        harmed_beyond: the unguarded outcome must exceed the baseline by this share or be non-finite.
    """

    detect_within: int
    tolerance: float = 0.05
    absolute: float = 0.0
    harmed_beyond: float = 0.05
    lower_is_better: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """What one run came to. ``outcome`` is what the owner gets; NaN where the run gave nothing."""

    outcome: float
    fault_at: int | None = None
    fault_observed: bool | None = None
    fault_gone: bool | None = None
    detected_at: int | None = None
    rungs: tuple[str, ...] = ()
    recovered_after: str | None = None
    recovered_in: int | None = None
    ended: str = ""
    findings: int = 0
    alarms: int = 0
    digest: str = ""
    ticks: int = 0
    seconds: float = 0.0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Seed:
    """The four arms of one seed: the baseline is run with the guard off and on."""

    seed: int
    baseline: Arm
    watched: Arm
    unguarded: Arm
    guarded: Arm


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict over all seeds, with every clause that failed, by seed."""

    verdict: ProofVerdict
    failures: tuple[str, ...]
    baseline: float
    allowed: float
    worst: Seed
    notes: tuple[str, ...] = field(default=())


def judge(seeds: Sequence[Seed], bounds: Bounds) -> Judgement:
    """Hold all seeds against all clauses.

    >>> ok = Arm(outcome=1.0, digest="d")
    >>> bad = Arm(outcome=9.0, fault_observed=True, fault_gone=True)
    >>> saved = Arm(outcome=1.0, fault_at=5, detected_at=6, fault_observed=True, fault_gone=True,
    ...             recovered_after="restore", recovered_in=9)
    >>> judge([Seed(0, ok, ok, bad, saved)], Bounds(detect_within=10)).verdict
    <ProofVerdict.PROVEN: 'proven'>
    """
    outcomes = [s.baseline.outcome for s in seeds]
    mean = sum(outcomes) / len(outcomes)
    spread = math.sqrt(sum((o - mean) ** 2 for o in outcomes) / max(1, len(outcomes) - 1))
    sign = 1.0 if bounds.lower_is_better else -1.0
    allowed = mean + sign * (max(bounds.tolerance * abs(mean), bounds.absolute) + 2 * spread)
    harmed = mean + sign * max(bounds.harmed_beyond * abs(mean), bounds.absolute)
    failures: list[str] = []
    unknown: list[str] = []
    for seed in seeds:
        failures += [f"seed {seed.seed}: {why}" for why in _failures(seed, bounds, sign, allowed, harmed)]
        unknown += [f"seed {seed.seed}: {why}" for why in _unknown(seed)]
    verdict = ProofVerdict.PROVEN
    if failures:
        verdict = ProofVerdict.NOT_PROVEN
    if unknown:
        verdict = ProofVerdict.INCONCLUSIVE
    worst = max(seeds, key=lambda s: _badness(s, sign))
    return Judgement(verdict, (*unknown, *failures), mean, allowed, worst)


def recovery_at_least(successes: int, confidence: float = 0.95) -> float:
    """What n of n really show: the lower limit of the recovery probability (exact binomial).

    >>> round(recovery_at_least(3), 2), round(recovery_at_least(59), 2)
    (0.37, 0.95)
    """
    return float((1.0 - confidence) ** (1.0 / successes)) if successes else 0.0


def _badness(seed: Seed, sign: float) -> tuple[bool, float]:
    outcome = seed.guarded.outcome
    return (not math.isfinite(outcome), sign * outcome if math.isfinite(outcome) else 0.0)


def _unknown(seed: Seed) -> list[str]:
    found = []
    if not math.isfinite(seed.baseline.outcome):
        found.append(f"the baseline has no outcome{_why(seed.baseline)}")
    for name, arm in (("unguarded", seed.unguarded), ("guarded", seed.guarded)):
        if arm.fault_observed is None:
            found.append(f"{name}: whether the fault was there could not be established{_why(arm)}")
        elif arm.fault_gone is None:
            found.append(f"{name}: whether the fault was gone could not be established{_why(arm)}")
    return found


def _failures(seed: Seed, bounds: Bounds, sign: float, allowed: float, harmed: float) -> list[str]:
    base, watched, unguarded = seed.baseline, seed.watched, seed.unguarded
    found = []
    if base.digest != watched.digest:
        found.append("the guard changed the healthy run: it is the harm")
    if watched.alarms:
        found.append(f"the healthy run raised {watched.alarms} findings")
    for name, arm in (("unguarded", unguarded), ("guarded", seed.guarded)):
        if arm.fault_observed is False:
            found.append(f"{name}: the fault was never there{_why(arm)}")
        if arm.fault_gone is False:
            found.append(f"{name}: the fault was left behind{_why(arm)}")
    if math.isfinite(unguarded.outcome) and sign * (unguarded.outcome - harmed) <= 0:
        found.append(f"the unguarded run was not harmed ({unguarded.outcome:.4g}): this proves nothing")
    return found + _unrecovered(seed.guarded, bounds, sign, allowed)


def _unrecovered(guarded: Arm, bounds: Bounds, sign: float, allowed: float) -> list[str]:
    found = []
    if guarded.detected_at is None or guarded.fault_at is None:
        found.append("the fault was not detected")
    elif not 0 <= guarded.detected_at - guarded.fault_at <= bounds.detect_within:
        late = guarded.detected_at - guarded.fault_at
        found.append(f"detected after {late} ticks, bound {bounds.detect_within}")
    if guarded.recovered_after is None:
        found.append(f"no verified recovery: {guarded.ended or 'still open'}")
    if not math.isfinite(guarded.outcome) or sign * (guarded.outcome - allowed) > 0:
        found.append(f"outcome {guarded.outcome:.4g}, allowed {allowed:.4g}")
    return found


def _why(arm: Arm) -> str:
    return f" ({arm.note})" if arm.note else ""
