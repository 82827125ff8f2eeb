"""A guard that keeps firing: flags in a row, or too large a share of them."""

from __future__ import annotations

from typing import final

from premortem.core.detector import Level, State
from premortem.parts.detectors.levels import GREEN, RED
from premortem.parts.detectors.snapshot import put_back, require, take, take_window, window_from

_FIELDS = ("count", "position", "row")


@final
class Streak:
    """RED after ``in_row`` non-zero values in a row, or while more than ``share`` of the last ``window`` are non-zero.

    The value is a flag: 0 for a normal step, anything else for a skipped, clipped or refused one (law 7).
    NaN is inconclusive and does not enter; an infinity counts as a flag.
    """

    __slots__ = (*_FIELDS, "_in_row", "_limit", "_window", "flags", "params")

    def __init__(self, *, in_row: float = 5, share: float = 0.2, window: float = 100) -> None:
        """``in_row`` and ``window`` in observations; ``share`` of the whole window, 0 to 1."""
        self.params = {"in_row": in_row, "share": share, "window": window}
        require(in_row >= 1, "Streak.in_row", in_row, "at least 1 observation")
        require(0.0 < share <= 1.0, "Streak.share", share, "a share in (0, 1]")
        require(window >= 1, "Streak.window", window, "at least 1 observation")
        self._in_row, self._window = float(in_row), int(window)
        self._limit = float(share) * self._window
        self.count = self.row = self.position = 0.0
        self.flags = [0.0] * self._window

    def observe(self, value: float) -> Level | None:
        """Take one flag; ``None`` for NaN."""
        if value:
            if value != value:
                return None
            flag = 1.0
            self.row += 1.0
        else:
            flag = self.row = 0.0
        at = int(self.position)
        flags = self.flags
        if flag != flags[at]:
            self.count += 1.0 if flag else -1.0
            flags[at] = flag
        self.position = at + 1 if at + 1 < self._window else 0
        return RED if self.row >= self._in_row or self.count > self._limit else GREEN

    def state(self) -> State:
        """The window of flags and the row."""
        return take(self, _FIELDS) | take_window("flags", self.flags)

    def load(self, state: State) -> None:
        """Resume; raises ``KeyError`` when a number is missing or the window has another length."""
        flags = window_from("flags", state)
        if len(flags) != self._window:
            raise KeyError(f"flags.{self._window - 1}")
        put_back(self, _FIELDS, state)
        self.flags = flags
