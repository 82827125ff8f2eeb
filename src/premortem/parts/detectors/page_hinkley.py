"""Page-Hinkley: the mean of a plain stream has risen (or fallen)."""

from __future__ import annotations

from typing import final

from premortem.core.detector import Level, State
from premortem.parts.detectors.levels import GREEN, LARGEST, RED
from premortem.parts.detectors.snapshot import put_back, require, take

_FIELDS = ("count", "drift", "mean")


@final
class PageHinkley:
    """RED while the cumulated excess over the running mean, less ``delta`` each time, stands above ``bound``.

    Needs no positive values and no scale, so ``delta`` and ``bound`` are in the signal's unit: for streams whose
    unit is known, such as an error rate. The mean stops learning while RED; the sum is held at twice the bound,
    so it can clear. ``fall`` = 1 watches for a fall. NaN and Inf are inconclusive and do not enter.

    Source: D. V. Hinkley, Inference about the change-point from cumulative sum tests, Biometrika 58 (1971).
    """

    __slots__ = (*_FIELDS, "_bound", "_delta", "_sign", "_warm_up", "params")

    def __init__(self, *, delta: float = 0.005, bound: float = 5.0, warm_up: float = 30, fall: float = 0.0) -> None:
        """``delta``, ``bound`` in the signal's unit; ``warm_up`` in values; ``fall``: 0 or 1."""
        self.params = {"delta": delta, "bound": bound, "warm_up": warm_up, "fall": fall}
        require(delta >= 0.0, "PageHinkley.delta", delta, "0 or more")
        require(bound > 0.0, "PageHinkley.bound", bound, "a positive sum")
        require(warm_up >= 1, "PageHinkley.warm_up", warm_up, "at least 1 value")
        self._delta, self._bound, self._warm_up = float(delta), float(bound), float(warm_up)
        self._sign = -1.0 if fall else 1.0
        self.count = self.mean = self.drift = 0.0

    def observe(self, value: float) -> Level | None:
        """Take one value; ``None`` during warm-up and for NaN or infinite values."""
        if not -LARGEST < value < LARGEST:
            return None
        value *= self._sign
        excess = value - self.mean
        if self.count < self._warm_up:
            self.count += 1.0
            self.mean += excess / self.count
            return None
        drift = self.drift + excess - self._delta
        bound = self._bound
        if drift > bound:
            self.drift = drift if drift < 2.0 * bound else 2.0 * bound
            return RED
        self.drift = drift if drift > 0.0 else 0.0
        self.count = count = self.count + 1.0
        self.mean += excess / count
        return GREEN

    def state(self) -> State:
        """The mean, its count and the sum."""
        return take(self, _FIELDS)

    def load(self, state: State) -> None:
        """Resume; raises ``KeyError`` when a number is missing."""
        put_back(self, _FIELDS, state)
