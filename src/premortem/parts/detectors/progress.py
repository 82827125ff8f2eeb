"""Slow convergence as a pace: how fast a run moves along the curve of a run known to be good."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from math import inf, isfinite, log
from typing import final

from premortem.core.detector import Level, State
from premortem.parts.detectors.levels import GREEN, RED
from premortem.parts.detectors.snapshot import put_back, require, take, take_window, window_from

_FIELDS = ("at", "count", "smooth")


@final
class Progress:
    """RED when a run moves along the healthy curve at less than ``pace`` of its speed, over ``window`` values.

    The smoothed loss is mapped to the step at which the healthy run first had it; that step must advance. So a run
    that was slow and is not any more is GREEN at once, though it has not caught up, and one that starts
    worse but learns as fast is never accused. GREEN where the curve has less than ``left`` of its descent to go:
    at the floor there is no pace. Inconclusive without a curve and during the first window.

    Covered: learning too slowly for the recipe. Not covered: a loss above the whole curve (its first point counts
    as step 0), a recipe without a healthy run.
    """

    __slots__ = (*_FIELDS, "_left", "_pace", "_weight", "_window", "logs", "params", "places", "steps")

    def __init__(self, *, pace: float = 0.2, window: float = 100, memory: float = 20, left: float = 0.1) -> None:
        """``window``, ``memory`` in values; ``pace``, ``left`` as shares."""
        self.params = {"pace": pace, "window": window, "memory": memory, "left": left}
        require(0.0 < pace < 1.0, "Progress.pace", pace, "a share in (0, 1)")
        require(window >= 2, "Progress.window", window, "at least 2 values")
        require(memory >= 1, "Progress.memory", memory, "at least 1 value")
        require(0.0 <= left < 1.0, "Progress.left", left, "a share in [0, 1)")
        self._pace, self._window = float(pace), int(window)
        self._weight, self._left = 1.0 / memory, float(left)
        self.smooth, self.count, self.at = inf, 0.0, 0.0
        self.places: list[float] = [0.0] * self._window
        self.steps: list[float] = []
        self.logs: list[float] = []

    def rebase(self, curve: Sequence[tuple[float, float]]) -> None:
        """Give the healthy run as (step, loss), steps rising, losses positive; raises ``ConfigError`` otherwise."""
        require(len(curve) >= 2, "Progress.rebase", curve, "at least two (step, loss) points")
        require(all(isfinite(v) and v > 0.0 for _, v in curve), "Progress.rebase", curve[:3], "positive losses")
        best = inf
        self.steps, self.logs = [], []
        for step, value in curve:
            if value < best:  # where the healthy run went up it made no progress either
                best = value
                self.steps.append(float(step))
                self.logs.append(-log(value))

    def observe(self, value: float) -> Level | None:
        """Take the next step's loss; ``None`` without a curve, in the first window, and for unusable values."""
        if not self.logs or not 0.0 < value < inf:
            return None
        x = -log(value)
        self.smooth = smooth = x if self.smooth == inf else self.smooth + self._weight * (x - self.smooth)
        place = self._place(smooth)
        slot = int(self.at)
        before, self.places[slot] = self.places[slot], place
        self.at = float((slot + 1) % self._window)
        if self.count < self._window:
            self.count += 1.0
            return None
        floor, top = self.logs[-1], self.logs[0]
        if floor - smooth <= self._left * (floor - top):
            return GREEN
        return GREEN if place - before >= self._pace * self._window else RED

    def state(self) -> State:
        """The smoothed loss and the window of places on the curve; the curve itself is given again on resume."""
        return take(self, _FIELDS) | take_window("places", self.places)

    def load(self, state: State) -> None:
        """Resume; raises ``KeyError`` when a number is missing."""
        places = window_from("places", state)
        put_back(self, _FIELDS, state)
        self.places = places

    def _place(self, x: float) -> float:
        """The step at which the healthy run first was this low, interpolated in log loss."""
        logs, steps = self.logs, self.steps
        after = bisect_left(logs, x)
        if after == 0:
            return steps[0] - (logs[0] - x) * (steps[1] - steps[0]) / (logs[1] - logs[0]) if len(logs) > 1 else steps[0]
        if after == len(logs):
            return steps[-1]
        share = (x - logs[after - 1]) / (logs[after] - logs[after - 1])
        return steps[after - 1] + share * (steps[after] - steps[after - 1])
