"""Growth that will reach a limit is seen before it does; jumps, plateaus and noise are not growth."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from premortem.core.detector import Level
from premortem.parts.detectors import Exhaustion


def levels(values: list[float], **params: float) -> list[Level | None]:
    detector = Exhaustion(**params)
    return [detector.observe(value) for value in values]


@settings(max_examples=50, deadline=None)
@given(start=st.floats(0.1, 0.7), pace=st.floats(0.002, 0.02), quiet=st.integers(0, 40))
def test_a_steady_growth_is_red_about_one_horizon_before_the_limit(start: float, pace: float, quiet: int) -> None:
    growing = [start + pace * i for i in range(int((1.0 - start) / pace))]
    values = [start] * quiet + growing
    seen = [i for i, level in enumerate(levels(values, horizon=30)) if level is Level.RED]
    if len(growing) > 20:  # the rest of the block in which it began, three whole steps, and the end of a block
        assert seen, "never seen"
    left = len(values) - seen[0] if seen else 0
    assert left >= min(30, len(growing) - 20) - 4
    assert left <= 32


@settings(max_examples=50, deadline=None)
@given(before=st.floats(0.1, 0.5), after=st.floats(0.1, 0.95), at=st.integers(0, 60), over=st.integers(1, 2))
def test_one_jump_is_no_trend(before: float, after: float, at: int, over: int) -> None:
    ramp = [before + (after - before) * (i + 1) / over for i in range(over)]
    assert Level.RED not in levels([before] * at + ramp + [after] * 60, horizon=30)


def test_noise_close_to_the_limit_is_no_trend() -> None:
    rng = random.Random(0)
    assert Level.RED not in levels([0.8 + rng.gauss(0, 0.01) for _ in range(20_000)], horizon=30)


def test_it_clears_when_the_growth_has_ended() -> None:
    values = [0.4 + 0.01 * i for i in range(50)] + [0.5] * 12
    found = levels(values, horizon=30)
    assert Level.RED in found
    assert found[-1] is Level.GREEN


@settings(max_examples=50, deadline=None)
@given(start=st.floats(0.1, 0.5), pace=st.floats(0.002, 0.02))
def test_what_is_left_is_told_by_the_newest_value_and_critical_comes_when_it_is_little(
    start: float, pace: float
) -> None:
    detector, seen = Exhaustion(horizon=100, critical=12), []
    for i in range(int((1.0 - start) / pace)):
        level = detector.observe(start + pace * i)
        left = (1.0 - start) / pace - i
        if level is Level.GREEN or level is None:
            assert detector.left() == math.inf
        else:
            assert detector.left() == pytest.approx(left, rel=1e-6)
            seen.append((level, left))
    assert [level for level, _ in seen] == sorted(level for level, _ in seen)
    assert all(left <= 12 for level, left in seen if level is Level.CRITICAL)
    assert all(left > 8 for level, left in seen if level is Level.RED)


def test_what_was_freed_ends_the_trend_at_once() -> None:
    detector = Exhaustion(horizon=30)
    for i in range(50):
        last = detector.observe(0.4 + 0.01 * i)
    assert last is Level.RED
    assert detector.observe(0.5) is Level.GREEN
    assert {detector.observe(0.5 + 0.01 * i) for i in range(12)} == {Level.GREEN}


def test_a_horizon_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="horizon"):
        Exhaustion(horizon=0)
    with pytest.raises(ValueError, match="critical"):
        Exhaustion(horizon=10, critical=10)
