"""Little improvement over the last window: slow convergence, for the record only."""

from __future__ import annotations

from math import inf
from typing import final

from premortem.core.detector import Level, State
from premortem.parts.detectors.levels import GREEN, LARGEST, YELLOW
from premortem.parts.detectors.snapshot import put_back, require, take

_FIELDS = ("before", "count", "level", "total")


@final
class Plateau:
    """YELLOW when the mean fell by less than ``improvement`` (a share) from one half window to the next (HRM-9.1.1).

    Assessed once every half window, held between. Never worse than YELLOW: most healthy windows of a long run look
    so; BaselineCurve judges against a known-good run. Scale invariant. NaN and Inf are inconclusive and do not
    enter.
    """

    __slots__ = (*_FIELDS, "_half", "_improvement", "params")

    def __init__(self, *, window: float = 100, improvement: float = 0.01) -> None:
        """``window`` in values; ``improvement`` as a share of the earlier mean's size."""
        self.params = {"window": window, "improvement": improvement}
        require(window >= 2, "Plateau.window", window, "at least 2 values")
        self._half, self._improvement = float(int(window) // 2), float(improvement)
        self.total = self.count = 0.0
        self.before = inf
        self.level = -1.0

    def observe(self, value: float) -> Level | None:
        """Take one value; ``None`` during the first window and for NaN or infinite values."""
        if not -LARGEST < value < LARGEST:
            return None
        self.total += value
        self.count += 1.0
        if self.count >= self._half:
            self._close_half()
        if self.level < 0.0:
            return None
        return YELLOW if self.level else GREEN

    def state(self) -> State:
        """The half window's sum and the mean before it."""
        return take(self, _FIELDS)

    def load(self, state: State) -> None:
        """Resume; raises ``KeyError`` when a number is missing."""
        put_back(self, _FIELDS, state)

    def _close_half(self) -> None:
        mean = self.total / self.count
        if self.before < inf:
            self.level = float(self.before - mean < self._improvement * abs(self.before))
        self.before, self.total, self.count = mean, 0.0, 0.0
