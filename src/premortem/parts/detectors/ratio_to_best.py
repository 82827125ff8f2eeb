"""A value many times the best of the recent window."""

from __future__ import annotations

from math import inf
from typing import final

from premortem.core.detector import Level, State
from premortem.parts.detectors.levels import GREEN, RED, YELLOW
from premortem.parts.detectors.snapshot import put_back, require, take, take_window, window_from

_FIELDS = ("above", "best", "block_best", "block_count", "count", "filled", "smooth")
_BLOCKS = 10


@final
class RatioToBest:
    """RED when a value exceeds ``factor`` × the lowest of the last ``window`` accepted values (HRM-9.1.1).

    The window is kept as ten block minima, so it spans between 0.9 and 1.0 × ``window`` values. A flagged value
    is not accepted, so a plateau at the bad level stays RED. ``floor`` (in the signal's unit) is the least best:
    a ratio between two losses near zero means nothing. Scale invariant above the floor.

    ``memory`` > 1 smooths the stream first, best and value alike: the luckiest batch of a noisy loss is no reference,
    and a flagged value does not enter the average either. ``in_row`` > 1: so many values in a row must be above, those
    before are YELLOW; one batch, however wild, then is no explosion.

    Covered: explosions. Not covered: sustained rises below the factor (Shift). NaN is inconclusive.
    """

    __slots__ = (
        *_FIELDS,
        "_block",
        "_factor",
        "_floor",
        "_in_row",
        "_memory",
        "_warm_up",
        "_weight",
        "minima",
        "params",
    )

    def __init__(
        self, *, factor: float = 10.0, window: float = 100, floor: float = 1e-3, warm_up: float = 10,
        memory: float = 1, in_row: float = 1,
    ) -> None:  # fmt: skip
        """``warm_up``: values before the first assessment; ``memory``: values that the average spans."""
        self.params = {
            "factor": factor, "window": window, "floor": floor, "warm_up": warm_up, "memory": memory, "in_row": in_row,
        }  # fmt: skip
        require(in_row >= 1, "RatioToBest.in_row", in_row, "at least 1 value")
        require(memory >= 1, "RatioToBest.memory", memory, "at least 1 value")
        require(factor > 1.0, "RatioToBest.factor", factor, "more than 1")
        require(window >= _BLOCKS, "RatioToBest.window", window, f"at least {_BLOCKS} values")
        require(floor > 0.0, "RatioToBest.floor", floor, "a positive value")
        require(warm_up >= 1, "RatioToBest.warm_up", warm_up, "at least 1 value")
        self._factor, self._floor, self._warm_up = float(factor), float(floor), float(warm_up)
        self._block = float(int(window) // _BLOCKS)
        self._memory = float(memory) if memory > 1 else 0.0
        self._weight = 1.0 / memory
        self._in_row = float(in_row)
        self.above = 0.0
        self.best = self.block_best = inf
        self.smooth = self.filled = 0.0
        self.block_count = self.count = 0.0
        self.minima: list[float] = []

    def observe(self, value: float) -> Level | None:
        """Assess one value; ``None`` for NaN and during warm-up."""
        if self.filled < self._memory:
            self._fill(value)
            return None
        if self._weight < 1.0:
            value = self.smooth + self._weight * (value - self.smooth)
        return self._judge(value)

    def _judge(self, value: float) -> Level | None:
        best = self.best
        if value <= best:
            if value == -inf:
                return None
            self.best = best = value
        elif value != value:
            return None
        elif self.count >= self._warm_up:
            if value > self._factor * (best if best > self._floor else self._floor):
                self.above += 1.0
                return RED if self.above >= self._in_row else YELLOW
        elif value == inf:
            return None
        self.smooth, self.above = value, 0.0
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

    def _fill(self, value: float) -> None:
        """The first values make a plain mean: an average that began with one lucky value would be its own best."""
        if value - value == 0.0:
            self.filled += 1.0
            self.smooth += (value - self.smooth) / self.filled

    def _close_block(self) -> None:
        self.minima.append(self.block_best)
        if len(self.minima) >= _BLOCKS:
            del self.minima[0]
        self.best = min(self.minima)
        self.block_best, self.block_count = inf, 0.0
