"""Hardly any variance left in the last values: a stuck run, or a finished one."""

from __future__ import annotations

from typing import final

from premortem.core.detector import Level, State
from premortem.parts.detectors.levels import GREEN, LARGEST, YELLOW
from premortem.parts.detectors.snapshot import put_back, require, take, take_window, window_from

_FIELDS = ("origin", "position", "squares", "total")


@final
class LowVariance:
    """YELLOW while the population variance of the last ``window`` finite values is below ``below`` (AF-1.4).

    Never worse than YELLOW: a converged run looks the same. Sums are taken about a recent value and afresh once a
    window, so large levels do not cancel. Conclusive from a full window; NaN and Inf do not enter.
    """

    __slots__ = (*_FIELDS, "_bound", "_window", "params", "values")

    def __init__(self, *, window: float = 50, below: float = 1e-3) -> None:
        """``window`` in values; ``below`` in the square of the signal's unit."""
        self.params = {"window": window, "below": below}
        require(window >= 2, "LowVariance.window", window, "at least 2 values")
        require(below > 0.0, "LowVariance.below", below, "a positive variance")
        self._window = int(window)
        self._bound = float(below) * self._window**2
        self.total = self.squares = self.origin = self.position = 0.0
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
            at = int(self.position)
            new, old = value - self.origin, values[at] - self.origin
            values[at] = value
            self.total += new - old
            self.squares += new * new - old * old
            self.position = at = at + 1
            if at == self._window:
                self._sum_afresh()
        return YELLOW if self._window * self.squares - self.total * self.total < self._bound else GREEN

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
        self.origin = origin = self.values[-1]
        self.total = sum(v - origin for v in self.values)
        self.squares = sum((v - origin) ** 2 for v in self.values)
