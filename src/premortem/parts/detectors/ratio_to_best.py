"""A value many times the best of the recent window."""

from __future__ import annotations

from math import inf
from typing import final

from premortem.core.detector import Level, State
from premortem.parts.detectors.levels import GREEN, RED
from premortem.parts.detectors.snapshot import put_back, require, take, take_window, window_from

_FIELDS = ("best", "block_best", "block_count", "count")
_BLOCKS = 10


@final
class RatioToBest:
    """RED when a value exceeds ``factor`` × the lowest of the last ``window`` accepted values (HRM-9.1.1).

    The window is kept as ten block minima, so it spans between 0.9 and 1.0 × ``window`` values. A flagged value
    is not accepted, so a plateau at the bad level stays RED. ``floor`` (in the signal's unit) is the least best:
    a ratio between two losses near zero means nothing. Scale invariant above the floor.

    Covered: explosions. Not covered: sustained rises below the factor (Shift). NaN is inconclusive.
    """

    __slots__ = (*_FIELDS, "_block", "_factor", "_floor", "_warm_up", "minima", "params")

    def __init__(self, *, factor: float = 10.0, window: float = 100, floor: float = 1e-3, warm_up: float = 10) -> None:
        """``warm_up``: values before the first assessment."""
        self.params = {"factor": factor, "window": window, "floor": floor, "warm_up": warm_up}
        require(factor > 1.0, "RatioToBest.factor", factor, "more than 1")
        require(window >= _BLOCKS, "RatioToBest.window", window, f"at least {_BLOCKS} values")
        require(floor > 0.0, "RatioToBest.floor", floor, "a positive value")
        require(warm_up >= 1, "RatioToBest.warm_up", warm_up, "at least 1 value")
        self._factor, self._floor, self._warm_up = float(factor), float(floor), float(warm_up)
        self._block = float(int(window) // _BLOCKS)
        self.best = self.block_best = inf
        self.block_count = self.count = 0.0
        self.minima: list[float] = []

    def observe(self, value: float) -> Level | None:
        """Assess one value; ``None`` for NaN and during warm-up."""
        best = self.best
        if value <= best:
            if value == -inf:
                return None
            self.best = best = value
        elif value != value:
            return None
        elif self.count >= self._warm_up:
            if value > self._factor * (best if best > self._floor else self._floor):
                return RED
        elif value == inf:
            return None
        self.count += 1.0
        if value < self.block_best:
            self.block_best = value
        self.block_count += 1.0
        if self.block_count >= self._block:
            self._close_block()
        return GREEN if self.count > self._warm_up else None

    def state(self) -> State:
        """The block minima."""
        return take(self, _FIELDS) | take_window("minima", self.minima)

    def load(self, state: State) -> None:
        """Resume; raises ``KeyError`` when a number is missing."""
        minima = window_from("minima", state)
        put_back(self, _FIELDS, state)
        self.minima = minima

    def _close_block(self) -> None:
        self.minima.append(self.block_best)
        if len(self.minima) >= _BLOCKS:
            del self.minima[0]
        self.best = min(self.minima)
        self.block_best, self.block_count = inf, 0.0
