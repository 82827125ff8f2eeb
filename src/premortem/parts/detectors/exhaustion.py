"""A steady growth that will reach a limit soon: memory, disk, a queue."""

from __future__ import annotations

from math import inf, isfinite
from typing import final

from premortem.core.detector import Level, State
from premortem.parts.detectors.levels import CRITICAL, GREEN, LARGEST, RED
from premortem.parts.detectors.snapshot import put_back, require, take

_FIELDS = ("count", "total", "first", "second", "third", "last", "pace", "level")
_CALM = 1.5


@final
class Exhaustion:
    """RED when growth at its present pace reaches ``limit`` within ``horizon`` values, CRITICAL within ``critical``.

    The pace is the least of the three steps between four blocks of ``block`` means: a jump within two values (a first
    batch, a pool that was filled) moves two of them at most and is no trend. Left when one and a half horizons ahead
    lies below the limit, and at once by a value below all four blocks. It foresees: ``left()`` is by the newest value.
    It measures, and learns no normal. Not covered: growth in rare leaps, faster than four blocks.
    Conclusive from the fourth block on, assessed at the end of each; NaN and Inf are inconclusive and do not enter.
    """

    __slots__ = (*_FIELDS, "_block", "_critical", "_horizon", "_limit", "params")

    def __init__(self, *, limit: float = 1.0, horizon: float = 30, block: float = 4, critical: float = 0) -> None:
        """``limit`` in the signal's unit; ``horizon``, ``block`` and ``critical`` (0: never) in values."""
        self.params = {"limit": limit, "horizon": horizon, "block": block, "critical": critical}
        require(isfinite(limit), "Exhaustion.limit", limit, "a finite limit")
        require(horizon > 0, "Exhaustion.horizon", horizon, "more than 0 values")
        require(block >= 1, "Exhaustion.block", block, "at least 1 value")
        require(0 <= critical < horizon, "Exhaustion.critical", critical, f"0 to below the horizon of {horizon}")
        self._limit, self._horizon, self._block = float(limit), float(horizon), int(block)
        self._critical = float(critical)
        self.count = self.total = self.first = self.second = self.third = self.last = self.pace = 0.0
        self.level = 0.0

    def observe(self, value: float) -> Level | None:
        """Take one value; ``None`` until four blocks are full, and for NaN or infinite values."""
        if not -LARGEST < value < LARGEST:
            return None
        if self.level and value < self.first:
            self.first = self.second = self.third = value
            self.count, self.total, self.level = 4.0 * self._block, 0.0, 0.0
            return GREEN
        self.last = value
        self.total += value
        self.count += 1.0
        if self.count % self._block == 0.0:
            self._end_block(value)
        if self.count < 4 * self._block:
            return None
        if not self.level:
            return GREEN
        return CRITICAL if self.level > 2.0 else RED

    def left(self) -> float:
        """Values until the limit at the present pace; infinite while GREEN."""
        return max(0.0, (self._limit - self.last) / self.pace) if self.level and self.pace > 0.0 else inf

    def state(self) -> State:
        """The last three block means, the present block, the newest value, its pace, and the level."""
        return take(self, _FIELDS)

    def load(self, state: State) -> None:
        """Resume; raises ``KeyError`` when a number is missing."""
        put_back(self, _FIELDS, state)

    def _end_block(self, value: float) -> None:
        mean = self.total / self._block
        if self.count >= 4 * self._block:
            steps = (self.second - self.first, self.third - self.second, mean - self.third)
            self.pace = max(0.0, min(steps)) / self._block
            self.level = self._assessed(value)
            self.count = 4.0 * self._block  # it would grow for ever; only what follows matters
        self.first, self.second, self.third, self.total = self.second, self.third, mean, 0.0

    def _assessed(self, value: float) -> float:
        """0, 2 for RED or 3 for CRITICAL; each is left later than it is reached."""
        if self.pace <= 0.0:
            return 0.0
        critical = self._critical * (_CALM if self.level > 2.0 else 1.0)
        if critical and value + self.pace * critical >= self._limit:
            return 3.0
        ahead = self._horizon * (_CALM if self.level else 1.0)
        return 2.0 if value + self.pace * ahead >= self._limit else 0.0
