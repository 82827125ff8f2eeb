"""Silence: nothing was observed for too long."""

from __future__ import annotations

from math import inf, isnan, nan
from typing import final

from premortem.core.detector import Level, State
from premortem.parts.detectors.levels import CRITICAL, GREEN, RED, YELLOW
from premortem.parts.detectors.snapshot import require


@final
class Heartbeat:
    """GREEN at each observation; ``missing`` assesses the silence since the last one.

    Whoever owns the clock calls ``missing`` (the kernel has none); a beat's value does not count, but NaN
    is missing data and no beat. Not covered: work that goes on without progress (Frozen, Streak).
    """

    __slots__ = ("_critical_s", "_red_s", "_yellow_s", "params")

    def __init__(self, *, yellow_s: float = nan, red_s: float = 60.0, critical_s: float = nan) -> None:
        """Bounds of silence in seconds; NaN leaves one out."""
        self.params = {"yellow_s": yellow_s, "red_s": red_s, "critical_s": critical_s}
        bounds = [b for b in (yellow_s, red_s, critical_s) if not isnan(b)]
        require(bool(bounds), "Heartbeat", "no bound", "at least one of yellow_s, red_s, critical_s")
        require(bounds == sorted(bounds) and bounds[0] > 0.0, "Heartbeat", self.params, "0 < yellow <= red <= critical")
        self._yellow_s, self._red_s, self._critical_s = (
            inf if isnan(b) else float(b) for b in (yellow_s, red_s, critical_s)
        )

    def observe(self, value: float) -> Level | None:
        """One beat; ``None`` for NaN."""
        return None if value != value else GREEN

    def missing(self, seconds: float) -> Level | None:
        """Assess ``seconds`` of silence; ``None`` for NaN."""
        if seconds != seconds:
            return None
        if seconds > self._critical_s:
            return CRITICAL
        if seconds > self._red_s:
            return RED
        return YELLOW if seconds > self._yellow_s else GREEN

    def state(self) -> State:
        """Empty: time is the caller's."""
        return {}

    def load(self, state: State) -> None:
        """Nothing to resume."""
