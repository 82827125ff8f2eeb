"""Windows of measurements that agree: one slow window on a busy machine is noise, several of a few are not."""

from __future__ import annotations

from math import nan
from typing import final

from premortem.core.detector import Level, State

_BEYOND, _WITHIN = 1.0, 0.0


@final
class AgreeingWindows:
    """RED (or YELLOW, with ``mild``) when ``enough`` of the last ``of`` windows lie beyond ``bound``.

    It stays so until ``acquit`` windows in a row lie within: several accuse, and a single lucky one clears nobody. A
    value stands until the next window is full, so a number that comes again is the same window and counts once.
    Inconclusive until as many windows as could speak for health have come. NaN and missing values are no window;
    an infinity lies beyond a bound on its side. ``below`` = 1 turns the direction.
    """

    __slots__ = ("_above", "_acquit", "_bound", "_enough", "_level", "_of", "accused", "last", "params", "verdicts")

    def __init__(
        self, *, bound: float, enough: float, of: float, acquit: float = 1.0, mild: float = 0.0, below: float = 0.0
    ) -> None:
        """``bound`` in the signal's unit; the rest counts windows. Raises ValueError for what cannot be."""
        self.params = {"bound": bound, "enough": enough, "of": of, "acquit": acquit, "mild": mild, "below": below}
        if not 1 <= enough <= of:
            raise ValueError(f"found {enough} of {of} windows, expected 1 <= enough <= of")
        if not 1 <= acquit <= of:
            raise ValueError(f"found {acquit} of {of} windows to acquit, expected 1 <= acquit <= of")
        self._bound, self._above, self._acquit = float(bound), not below, int(acquit)
        self._enough, self._of = int(enough), int(of)
        self._level = Level.YELLOW if mild else Level.RED
        self.last = nan
        self.accused = 0.0
        self.verdicts: list[float] = []

    def observe(self, value: float) -> Level | None:
        """Take one reading; ``None`` for NaN, and while too few windows have come."""
        if value != value:
            return None
        if value != self.last:
            self.last = value
            beyond = value > self._bound if self._above else value < self._bound
            self.verdicts = [*self.verdicts, _BEYOND if beyond else _WITHIN][-self._of :]
        if self.verdicts.count(_BEYOND) >= self._enough:
            self.accused = 1.0
        elif _BEYOND not in self.verdicts[-self._acquit :]:
            self.accused = 0.0
        if self.accused:
            return self._level
        has_enough = self.verdicts.count(_WITHIN) > self._of - self._enough or len(self.verdicts) == self._of
        return Level.GREEN if has_enough else None

    def state(self) -> State:
        """The last value, the verdict of each window, and whether they accuse."""
        held = {f"verdicts.{i}": verdict for i, verdict in enumerate(self.verdicts)}
        return {"last": self.last, "accused": self.accused, "count": float(len(self.verdicts)), **held}

    def load(self, state: State) -> None:
        """Resume; raises ``KeyError`` when a number is missing."""
        last, accused, count = state["last"], state["accused"], int(state["count"])
        self.verdicts = [state[f"verdicts.{i}"] for i in range(count)][-self._of :]
        self.last, self.accused = last, accused
