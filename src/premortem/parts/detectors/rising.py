"""The least-squares slope of the last values: rising loss (AF-1.4)."""

from __future__ import annotations

from math import inf
from typing import final

from premortem.core.detector import Level, State
from premortem.parts.detectors.levels import GREEN, LARGEST, RED
from premortem.parts.detectors.snapshot import put_back, require, take, take_window, window_from

_FIELDS = ("moment", "position", "total")


@final
class Rising:
    """RED while the regression slope of the last ``window`` finite values exceeds ``slope`` units a value.

    The window is the measurement, not a learned normal: values stay in it while RED, or it could never
    clear. With ``clip`` a value counts for no more than so many times the mean of a full window (where that is
    positive): one wild batch is no slope, a run that climbs away takes the mean with it. The running sums are summed
    afresh once a window, so rounding never accumulates. Not scale invariant.
    Conclusive from a full window; NaN and Inf are inconclusive and do not enter.
    """

    __slots__ = (*_FIELDS, "_bound", "_clip", "_last", "_middle", "_window", "params", "values")

    def __init__(self, *, window: float = 100, slope: float = 0.01, clip: float = inf) -> None:
        """``window`` in values; ``slope`` in the signal's unit a value; ``clip`` in means, infinite for none."""
        self.params = {"window": window, "slope": slope, "clip": clip}
        require(clip > 1.0, "Rising.clip", clip, "more than 1 mean")
        self._clip = float(clip) / int(window)
        require(window >= 3, "Rising.window", window, "at least 3 values")
        self._window = n = int(window)
        self._last, self._middle = float(n - 1), (n - 1) / 2.0
        # slope = sum((i - middle) * y) / (n (n^2 - 1) / 12)
        self._bound = float(slope) * n * (n * n - 1) / 12.0
        self.total = self.moment = self.position = 0.0
        self.values: list[float] = []

    def observe(self, value: float) -> Level | None:
        """Take one value; ``None`` until the window is full and for NaN or infinite values."""
        if not -LARGEST < value < LARGEST:
            return None
        values = self.values
        if len(values) < self._window:
            values.append(value)
            if len(values) < self._window:
                return None
            self._sum_afresh()
        else:
            if value > (most := self._clip * self.total) > 0.0:
                value = most
            at = int(self.position)
            oldest = values[at]
            values[at] = value
            self.moment += self._last * value - self.total + oldest
            self.total += value - oldest
            self.position = at = at + 1
            if at == self._window:
                self._sum_afresh()
        return RED if self.moment - self._middle * self.total > self._bound else GREEN

    def state(self) -> State:
        """The window and its sums."""
        return take(self, _FIELDS) | take_window("values", self.values)

    def load(self, state: State) -> None:
        """Resume; raises ``KeyError`` when a number is missing."""
        values = window_from("values", state)
        put_back(self, _FIELDS, state)
        self.values = values

    def _sum_afresh(self) -> None:
        self.position = 0
        self.total = sum(self.values)
        self.moment = sum(i * v for i, v in enumerate(self.values))
