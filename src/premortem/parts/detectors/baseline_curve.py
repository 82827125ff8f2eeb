"""Slow convergence: the loss against the persisted curve of a known-good run."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, inf, isfinite, log
from typing import final

from premortem.core.detector import Level, State
from premortem.parts.detectors.levels import GREEN, RED, YELLOW
from premortem.parts.detectors.snapshot import put_back, require, take, take_window, window_from

_FIELDS = ("above", "at", "smooth", "step")


def curve_of(losses: Sequence[float], *, points: int = 64) -> tuple[tuple[float, float], ...]:
    """Summarise a healthy run as (step, loss) points: geometric means of equal blocks, at the blocks' centres.

    Non-positive and non-finite losses are left out. Raises ``ConfigError`` when none remains.
    """
    length = max(1, -(-len(losses) // points))
    curve = []
    for start in range(0, len(losses), length):
        logs = [log(v) for v in losses[start : start + length] if 0.0 < v < inf]
        if logs:
            curve.append((start + (len(logs) - 1) / 2.0, exp(sum(logs) / len(logs))))
    require(bool(curve), "curve_of.losses", f"{len(losses)} losses, none positive", "at least one positive loss")
    return tuple(curve)


@final
class BaselineCurve:
    """YELLOW above the curve's band, RED when that has lasted ``patience`` observations in a row.

    The stream's step is its number of observations so far; values are smoothed in log units with ``memory``;
    the curve is interpolated in log loss, and its ends are held. Inconclusive without a curve, which never learns
    from the stream. Scale invariant (curve and stream together). NaN and non-positive values count a step and say
    nothing.

    Covered: convergence slower than a known-good run of the same recipe. Not covered: a recipe without one.
    """

    __slots__ = (*_FIELDS, "_band", "_patience", "_weight", "logs", "params", "steps")

    def __init__(self, *, band: float = 0.10, patience: float = 200, memory: float = 50) -> None:
        """``band``: share above the curve that is still healthy; ``patience``, ``memory`` in observations."""
        self.params = {"band": band, "patience": patience, "memory": memory}
        require(band > 0.0, "BaselineCurve.band", band, "a positive share")
        require(patience >= 1, "BaselineCurve.patience", patience, "at least 1 observation")
        require(memory >= 1, "BaselineCurve.memory", memory, "at least 1 observation")
        self._band, self._patience, self._weight = log(1.0 + band), float(patience), 1.0 / memory
        self.step = self.above = self.at = 0.0
        self.smooth = inf
        self.steps: list[float] = []
        self.logs: list[float] = []

    def rebase(self, curve: Sequence[tuple[float, float]]) -> None:
        """Give the curve as (step, loss) points, steps rising, losses positive; raises ``ConfigError`` otherwise."""
        steps = [float(s) for s, _ in curve]
        require(bool(steps), "BaselineCurve.rebase", curve, "at least one (step, loss) point")
        require(steps == sorted(set(steps)), "BaselineCurve.rebase", steps[:5], "steps that rise")
        losses = [v for _, v in curve]
        require(all(isfinite(v) and v > 0.0 for v in losses), "BaselineCurve.rebase", losses[:5], "positive losses")
        self.steps, self.logs, self.at = steps, [log(v) for v in losses], 0.0

    def observe(self, value: float) -> Level | None:
        """Take the next step's value; ``None`` without a curve and for NaN, infinite or non-positive values."""
        step = self.step
        self.step = step + 1.0
        if not self.steps or not 0.0 < value < inf:
            return None
        smooth = self.smooth
        x = log(value)
        # the slower average of the loss lags above a falling curve, so it starts at the first value
        self.smooth = smooth = x if smooth == inf else smooth + self._weight * (x - smooth)
        if smooth - self._expected(step) <= self._band:
            self.above = 0.0
            return GREEN
        self.above += 1.0
        return RED if self.above >= self._patience else YELLOW

    def state(self) -> State:
        """The step, the smoothed loss and the curve."""
        return take(self, _FIELDS) | take_window("steps", self.steps) | take_window("logs", self.logs)

    def load(self, state: State) -> None:
        """Resume; raises ``KeyError`` when a number is missing."""
        steps, logs = window_from("steps", state), window_from("logs", state)
        put_back(self, _FIELDS, state)
        self.steps, self.logs = steps, logs

    def _expected(self, step: float) -> float:
        steps, logs = self.steps, self.logs
        at, last = int(self.at), len(steps) - 1
        while at < last and steps[at + 1] <= step:
            at += 1
        self.at = float(at)
        if at == last or step <= steps[0]:
            return logs[at]
        share = (step - steps[at]) / (steps[at + 1] - steps[at])
        return logs[at] + share * (logs[at + 1] - logs[at])
