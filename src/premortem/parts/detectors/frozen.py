"""The same value again and again: a dead sensor, or parameters that no longer change."""

from __future__ import annotations

from math import isnan, nan
from typing import final

from premortem.core.detector import Level, State
from premortem.parts.detectors.levels import GREEN, RED
from premortem.parts.detectors.snapshot import put_back, require, take

_FIELDS = ("last", "run")


@final
class Frozen:
    """RED when ``repeats`` observations in a row stayed within ``tolerance`` of the one before, or of ``at``.

    For a parameter change ratio use ``at=0``: only no change at all counts, a steady change does not.
    NaN is inconclusive and neither counts nor breaks the row.
    """

    __slots__ = (*_FIELDS, "_at", "_repeats", "_tolerance", "params")

    def __init__(self, *, repeats: float = 20, tolerance: float = 0.0, at: float = nan) -> None:
        """``repeats`` in observations; ``tolerance`` and ``at`` in the signal's unit."""
        self.params = {"repeats": repeats, "tolerance": tolerance, "at": at}
        require(repeats >= 2, "Frozen.repeats", repeats, "at least 2 observations")
        require(tolerance >= 0.0, "Frozen.tolerance", tolerance, "0 or more")
        self._repeats, self._tolerance, self._at = float(repeats), float(tolerance), float(at)
        self.last = nan
        self.run = 0.0

    def observe(self, value: float) -> Level | None:
        """Take one value; ``None`` for NaN and before a first verdict is possible."""
        reference = self.last if isnan(self._at) else self._at
        if value == reference or -self._tolerance <= value - reference <= self._tolerance:
            self.run += 1.0
            self.last = value
            # the first value of a row has nothing before it to repeat
            return RED if self.run >= self._repeats else GREEN
        if value != value:
            return None
        self.run = 0.0 if value != reference and not isnan(self._at) else 1.0
        first = isnan(self.last) and isnan(self._at)
        self.last = value
        return None if first else GREEN

    def state(self) -> State:
        """The last value and the length of the row."""
        return take(self, _FIELDS)

    def load(self, state: State) -> None:
        """Resume; raises ``KeyError`` when a number is missing."""
        put_back(self, _FIELDS, state)
