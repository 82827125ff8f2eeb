"""A single step that leaps above the recent level."""

from __future__ import annotations

from math import inf, isnan, log
from typing import final

from premortem.core.detector import Level, State
from premortem.parts.detectors.levels import GREEN, RED, YELLOW
from premortem.parts.detectors.snapshot import put_back, require, take

_FIELDS = ("bound", "count", "location", "scale")
_LOCATION_MEMORY = 1 / 16
_SCALE_MEMORY = 1 / 64
_TO_SIGMA = 1.2533  # mean absolute deviation to sigma for a normal value
_CLIP = 3.0


@final
class Spike:
    """Assesses how many widths, in log units, one positive value stands above the recent location.

    Location and width are exponential averages of clipped values, so one outlier moves them by a bounded step, and
    values at YELLOW or worse never enter. Only upward counts. A level that stays up stays flagged: it is
    judged against the last healthy one. Scale invariant.

    Covered: single bad steps. Not covered: rises below the bound (Shift); zero and negative values,
    which are inconclusive like NaN. +Inf is flagged.
    """

    __slots__ = (*_FIELDS, "_floor", "_red", "_warm_up", "_yellow", "params")

    def __init__(self, *, yellow: float = 12.0, red: float = inf, floor: float = 0.01, warm_up: float = 32) -> None:
        """``yellow``, ``red`` in widths; ``floor``: the least width in log units; ``warm_up`` in values.

        An infinite or NaN ``red`` leaves that level out.
        """
        self.params = {"yellow": yellow, "red": red, "floor": floor, "warm_up": warm_up}
        require(0.0 < yellow < inf, "Spike.yellow", yellow, "a positive number of widths")
        require(isnan(red) or red >= yellow, "Spike.red", red, "at least yellow")
        require(floor > 0.0, "Spike.floor", floor, "a positive width")
        require(warm_up >= 8, "Spike.warm_up", warm_up, "at least 8 values")
        self._yellow = float(yellow)
        self._red = inf if isnan(red) else float(red)
        self._floor, self._warm_up = float(floor), float(warm_up)
        self.location = self.scale = self.count = 0.0
        self.bound = inf

    def observe(self, value: float) -> Level | None:
        """Assess one value; ``None`` during warm-up and for NaN, zero or negative values."""
        if not value > 0.0:
            return None
        if self.count < self._warm_up:
            if value < inf:
                self._warm(log(value))
            return None
        deviation = log(value) - self.location if value < inf else inf
        if deviation > self.bound:
            return RED if deviation > self._red * self._width() else YELLOW
        scale = self.scale
        limit = _CLIP * scale
        if deviation > limit:
            deviation = size = limit
        elif deviation < 0.0:
            size = limit if deviation < -limit else -deviation
        else:
            size = deviation
        self.location += _LOCATION_MEMORY * deviation
        self.scale = scale = scale + _SCALE_MEMORY * (_TO_SIGMA * size - scale)
        self.bound = self._yellow * (scale if scale > self._floor else self._floor)
        return GREEN

    def state(self) -> State:
        """Location and width."""
        return take(self, _FIELDS)

    def load(self, state: State) -> None:
        """Resume; raises ``KeyError`` when a number is missing."""
        put_back(self, _FIELDS, state)

    def _width(self) -> float:
        return self.scale if self.scale > self._floor else self._floor

    def _warm(self, x: float) -> None:
        self.count += 1.0
        if self.count == 1.0:
            self.location = x
            return
        deviation = x - self.location
        limit = _CLIP * self._width() if self.count > 8.0 else inf
        deviation = max(-limit, min(limit, deviation))
        self.location += max(_LOCATION_MEMORY, 1.0 / self.count) * deviation
        self.scale += max(_SCALE_MEMORY, 1.0 / (self.count - 1.0)) * (_TO_SIGMA * abs(deviation) - self.scale)
        self.bound = self._yellow * self._width()
