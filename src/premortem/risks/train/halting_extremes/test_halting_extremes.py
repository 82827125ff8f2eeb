"""Halting extremes: silent on a healthy loss, RED on the real symptom. The drill proves the rest."""

from __future__ import annotations

from premortem.core.detector import Level
from premortem.risks.train.halting_extremes.risk import RISK, Params

HEALTHY = [4.0 * 0.98**step + 0.1 for step in range(200)]


def _levels(losses: list[float]) -> list[Level | None]:
    """The worst level of all watches on the loss, step by step."""
    detectors = [watch.detector() for watch in RISK.watches(Params()) if watch.signal == "loss"]
    found = []
    for loss in losses:
        levels = [level for detector in detectors if (level := detector.observe(loss)) is not None]
        found.append(max(levels, default=None))
    return found


def test_a_healthy_loss_is_never_red() -> None:
    assert not [level for level in _levels(HEALTHY) if level is not None and level >= Level.RED]


def test_a_loss_that_jumps_is_red_within_ten_steps() -> None:
    levels = _levels([*HEALTHY, *[5.0] * 10])[len(HEALTHY) :]
    assert any(level is not None and level >= Level.RED for level in levels)


def test_a_loss_that_is_not_a_number_is_critical_at_once() -> None:
    assert _levels([*HEALTHY, float("nan")])[-1] is Level.CRITICAL
