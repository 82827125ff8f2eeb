"""A drill's rule: each clause of a proof fails for its own reason, and what is unknown is never passed."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from premortem.core.drill import Arm, Bounds, ProofVerdict, Seed, judge, recovery_at_least

HEALTHY = Arm(outcome=1.0, digest="d")
HARMED = Arm(outcome=2.0, fault_observed=True, fault_gone=True)
SAVED = Arm(
    outcome=1.0, fault_at=5, detected_at=8, fault_observed=True, fault_gone=True, recovered_after="restore",
    recovered_in=9,
)  # fmt: skip
PROVEN = Seed(0, HEALTHY, HEALTHY, HARMED, SAVED)
BOUNDS = Bounds(detect_within=10)


def test_all_clauses_met_is_proven() -> None:
    judgement = judge([PROVEN], BOUNDS)
    assert (judgement.verdict, judgement.failures) == (ProofVerdict.PROVEN, ())


@pytest.mark.parametrize(
    ("seed", "why"),
    [
        (replace(PROVEN, watched=replace(HEALTHY, digest="e")), "it is the harm"),
        (replace(PROVEN, watched=replace(HEALTHY, alarms=2)), "raised 2 findings"),
        (replace(PROVEN, unguarded=replace(HARMED, fault_observed=False)), "unguarded: the fault was never there"),
        (replace(PROVEN, guarded=replace(SAVED, fault_gone=False, note="mount held")), "left behind (mount held)"),
        (replace(PROVEN, unguarded=replace(HARMED, outcome=1.02)), "was not harmed"),
        (replace(PROVEN, guarded=replace(SAVED, detected_at=None)), "not detected"),
        (replace(PROVEN, guarded=replace(SAVED, detected_at=16)), "detected after 11 ticks, bound 10"),
        (replace(PROVEN, guarded=replace(SAVED, detected_at=4)), "detected after -1 ticks"),
        (replace(PROVEN, guarded=replace(SAVED, recovered_after=None)), "no verified recovery: still open"),
        (replace(PROVEN, guarded=replace(SAVED, recovered_after=None, ended="handed over")), "recovery: handed over"),
        (replace(PROVEN, guarded=replace(SAVED, outcome=1.2)), "outcome 1.2, allowed 1.05"),
        (replace(PROVEN, guarded=replace(SAVED, outcome=math.nan)), "outcome nan"),
    ],
)
def test_each_clause_fails_for_its_own_reason(seed: Seed, why: str) -> None:
    judgement = judge([PROVEN, replace(seed, seed=1)], BOUNDS)
    assert judgement.verdict is ProofVerdict.NOT_PROVEN
    assert [text for text in judgement.failures if text.startswith("seed 1: ") and why in text]
    assert not [text for text in judgement.failures if text.startswith("seed 0: ")]


@pytest.mark.parametrize(
    "seed",
    [
        replace(PROVEN, baseline=replace(HEALTHY, outcome=math.nan)),
        replace(PROVEN, unguarded=replace(HARMED, fault_observed=None)),
        replace(PROVEN, guarded=replace(SAVED, fault_gone=None)),
    ],
)
def test_what_could_not_be_established_is_inconclusive_whatever_else_holds(seed: Seed) -> None:
    assert judge([seed, replace(PROVEN, seed=1)], BOUNDS).verdict is ProofVerdict.INCONCLUSIVE
    also_failed = replace(seed, watched=replace(HEALTHY, alarms=1))
    assert judge([also_failed], BOUNDS).verdict is ProofVerdict.INCONCLUSIVE


def test_a_run_that_died_unguarded_was_harmed() -> None:
    assert judge([replace(PROVEN, unguarded=replace(HARMED, outcome=math.nan))], BOUNDS).verdict is ProofVerdict.PROVEN


def test_the_worst_seed_is_shown_by_the_outcomes_own_direction() -> None:
    better = replace(PROVEN, seed=1, guarded=replace(SAVED, outcome=0.9))
    assert judge([PROVEN, better], BOUNDS).worst.seed == 0
    shares = Bounds(detect_within=10, lower_is_better=False)
    harmed = replace(HARMED, outcome=0.2)
    seeds = [replace(PROVEN, unguarded=harmed), replace(better, unguarded=harmed, guarded=replace(SAVED, outcome=0.97))]
    judgement = judge(seeds, shares)
    assert (judgement.verdict, judgement.worst.seed) == (ProofVerdict.PROVEN, 1)


@given(st.lists(st.floats(0.5, 2.0), min_size=1, max_size=8), st.floats(0.5, 8.0))
def test_no_outcome_beyond_what_is_allowed_is_proven(baselines: list[float], guarded: float) -> None:
    seeds = [
        Seed(n, replace(HEALTHY, outcome=value), HEALTHY, replace(HARMED, outcome=math.nan), SAVED)
        for n, value in enumerate(baselines)
    ]
    seeds[0] = replace(seeds[0], guarded=replace(SAVED, outcome=guarded))
    judgement = judge(seeds, BOUNDS)
    spread = max(baselines) - min(baselines)
    assert judgement.allowed <= max(baselines) * 1.05 + 2 * spread + 1e-9
    if guarded > judgement.allowed:
        assert judgement.verdict is ProofVerdict.NOT_PROVEN


def test_what_n_of_n_seeds_show_is_the_exact_binomial_limit() -> None:
    assert recovery_at_least(0) == 0.0
    for n in (1, 3, 10, 29):
        assert recovery_at_least(n) ** n == pytest.approx(0.05)
