"""Fixed bounds, above or below, with hysteresis."""

from __future__ import annotations

from math import inf, isnan, nan
from typing import final

from premortem.core.detector import Level, State
from premortem.parts.detectors.levels import CRITICAL, GREEN, RED, YELLOW
from premortem.parts.detectors.snapshot import put_back, require, take

_FIELDS = ("level",)
_LEVELS = (GREEN, YELLOW, RED, CRITICAL)


@final
class Threshold:
    """The worst bound that the value has passed; falls back only when the value is ``clear`` inside it again.

    Bounds are in the signal's own unit; NaN leaves one out. ``below`` = 1 turns the direction: low is bad.
    Covered: levels known beforehand. Not covered: anything relative to the stream's own past. NaN is
    inconclusive; an infinity passes every bound on its side.
    """

    __slots__ = ("_clear", "_critical", "_least", "_red", "_sign", "_yellow", "level", "params")

    def __init__(
        self,
        *,
        yellow: float = nan,
        red: float = nan,
        critical: float = nan,
        clear: float = 0.0,
        below: float = 0.0,
    ) -> None:
        """``clear`` ≥ 0: how far inside a bound, in the signal's unit, a value must be to leave its level."""
        self.params = {"yellow": yellow, "red": red, "critical": critical, "clear": clear, "below": below}
        self._sign = sign = -1.0 if below else 1.0
        bounds = [sign * b for b in (yellow, red, critical) if not isnan(b)]
        require(bool(bounds), "Threshold", "no bound", "at least one of yellow, red, critical")
        require(bounds == sorted(bounds), "Threshold", self.params, "bounds that worsen from yellow to critical")
        require(clear >= 0.0, "Threshold.clear", clear, "a margin of 0 or more")
        self._yellow, self._red, self._critical = (
            inf if isnan(b) else sign * float(b) for b in (yellow, red, critical)
        )
        self._least, self._clear = min(bounds), float(clear)
        self.level = 0.0

    def observe(self, value: float) -> Level | None:
        """Assess one value; ``None`` for NaN."""
        value *= self._sign
        if value <= self._least - self._clear:
            self.level = 0.0
            return GREEN
        if value != value:
            return None
        level = self._passed(value)
        held = self._passed(value + self._clear)
        self.level = float(max(level, min(held, int(self.level))))
        return _LEVELS[int(self.level)]

    def state(self) -> State:
        """The level it stands at."""
        return take(self, _FIELDS)

    def load(self, state: State) -> None:
        """Resume; raises ``KeyError`` when a number is missing."""
        put_back(self, _FIELDS, state)

    def _passed(self, value: float) -> int:
        if value > self._critical:
            return 3
        if value > self._red:
            return 2
        return 1 if value > self._yellow else 0
