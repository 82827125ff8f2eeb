"""A change of level in either direction, against a normal learned once and then frozen."""

from __future__ import annotations

from math import sqrt
from typing import final

from premortem.core.detector import Level, State
from premortem.parts.detectors.levels import GREEN, LARGEST, RED
from premortem.parts.detectors.snapshot import put_back, require, take

_FIELDS = ("count", "down", "location", "scale", "squares", "up")
_CLIP = 4.0


@final
class ChangePoint:
    """RED while a two-sided cumulative sum of standardised values stands above ``bound``.

    The first ``warm_up`` values give location and scale, which then stay (two-phase control chart): nothing seen
    later enters them. Single values count for four scales at most. For stationary streams of any sign: throughput,
    accuracy, temperature. Affine invariant above ``floor``. NaN and Inf are inconclusive and do not enter.

    Not covered: streams with a trend (Shift, BaselineCurve); a warm-up that was already bad.

    Source: D. C. Montgomery, Introduction to Statistical Quality Control, chapter 9 (tabular CUSUM).
    """

    __slots__ = (*_FIELDS, "_bound", "_drift", "_floor", "_warm_up", "params")

    def __init__(self, *, drift: float = 0.5, bound: float = 12.0, warm_up: float = 50, floor: float = 1e-9) -> None:
        """``drift``, ``bound`` in scales; ``warm_up`` in values; ``floor``: least scale in the signal's unit."""
        self.params = {"drift": drift, "bound": bound, "warm_up": warm_up, "floor": floor}
        require(0.0 < drift < _CLIP, "ChangePoint.drift", drift, f"between 0 and {_CLIP:g} scales")
        require(bound > _CLIP, "ChangePoint.bound", bound, f"more than {_CLIP:g}, so that no single value is a change")
        require(warm_up >= 8, "ChangePoint.warm_up", warm_up, "at least 8 values")
        require(floor > 0.0, "ChangePoint.floor", floor, "a positive scale")
        self._drift, self._bound = float(drift), float(bound)
        self._warm_up, self._floor = float(warm_up), float(floor)
        self.count = self.location = self.squares = self.scale = self.up = self.down = 0.0

    def observe(self, value: float) -> Level | None:
        """Take one value; ``None`` during warm-up and for NaN or infinite values."""
        if not -LARGEST < value < LARGEST:
            return None
        deviation = value - self.location
        if self.count < self._warm_up:
            self._learn(value, deviation)
            return None
        z = deviation / self.scale
        if z > _CLIP:
            z = _CLIP
        elif z < -_CLIP:
            z = -_CLIP
        up, down, bound = self.up + z - self._drift, self.down - z - self._drift, self._bound
        # a sum held at its bound clears within a few healthy values
        self.up = up if 0.0 < up < bound else 0.0 if up <= 0.0 else bound
        self.down = down if 0.0 < down < bound else 0.0 if down <= 0.0 else bound
        return RED if up >= bound or down >= bound else GREEN

    def state(self) -> State:
        """Location, scale and both sums."""
        return take(self, _FIELDS)

    def load(self, state: State) -> None:
        """Resume; raises ``KeyError`` when a number is missing."""
        put_back(self, _FIELDS, state)

    def _learn(self, value: float, deviation: float) -> None:
        self.count += 1.0
        self.location += deviation / self.count
        self.squares += deviation * (value - self.location)
        self.scale = max(self._floor, sqrt(self.squares / max(1.0, self.count - 1.0)))
