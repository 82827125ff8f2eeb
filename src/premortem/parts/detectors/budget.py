"""Use of something limited: memory, disk, time, money."""

from __future__ import annotations

from math import inf, isfinite
from typing import final

from premortem.core.detector import Level, State
from premortem.parts.detectors.levels import CRITICAL, GREEN, RED, YELLOW
from premortem.parts.detectors.snapshot import put_back, require, take

_FIELDS = ("level",)
_LEVELS = (GREEN, YELLOW, RED, CRITICAL)


@final
class Budget:
    """Assesses use as shares of ``limit``; a level is left only ``clear`` (a share) below its bound.

    Covered: use that is read. Not covered: use that will jump past the limit between two readings. NaN is
    inconclusive; +Inf is over every budget.
    """

    __slots__ = ("_bounds", "_clear", "_least", "level", "params")

    def __init__(
        self,
        *,
        limit: float,
        yellow: float = 0.8,
        red: float = 0.9,
        critical: float = 1.0,
        clear: float = 0.02,
    ) -> None:
        """``limit`` in the signal's unit; the others are shares of it."""
        self.params = {"limit": limit, "yellow": yellow, "red": red, "critical": critical, "clear": clear}
        require(isfinite(limit) and limit > 0.0, "Budget.limit", limit, "a positive limit")
        require(0.0 < yellow <= red <= critical, "Budget", self.params, "0 < yellow <= red <= critical")
        require(0.0 <= clear < yellow, "Budget.clear", clear, "a share from 0 to below yellow")
        self._bounds = (-inf, yellow * limit, red * limit, critical * limit)
        self._clear = clear * limit
        self._least = self._bounds[1] - self._clear
        self.level = 0.0

    def observe(self, value: float) -> Level | None:
        """Assess one reading of use; ``None`` for NaN."""
        if value < self._least:
            self.level = 0.0
            return GREEN
        if value != value:
            return None
        _, yellow, red, critical = self._bounds
        level = 3 if value >= critical else 2 if value >= red else 1 if value >= yellow else 0
        standing = int(self.level)
        while standing > level and value < self._bounds[standing] - self._clear:
            standing -= 1
        level = max(level, standing)
        self.level = float(level)
        return _LEVELS[level]

    def state(self) -> State:
        """The level it stands at."""
        return take(self, _FIELDS)

    def load(self, state: State) -> None:
        """Resume; raises ``KeyError`` when a number is missing."""
        put_back(self, _FIELDS, state)
