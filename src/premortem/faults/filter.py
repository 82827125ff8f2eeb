"""A gradient filter that is far too strong: its λ jumps in mid-run."""

from __future__ import annotations

from typing import Protocol

from premortem.faults.disturbance import Disturbance
from premortem.faults.fault import Evidence


class Filter(Protocol):
    """Anything with a strength that can be set."""

    lamb: float


class FilterJump(Disturbance):
    """The strength λ of a gradient filter × `factor`, at every use.

    Covered: filters whose `lamb` is read at each use. Not covered: one that copies it when it is made.
    """

    name = "filter jump"

    def __init__(self, gradient_filter: Filter, factor: float) -> None:
        self._filter = gradient_filter
        self._factor = factor
        self._before: float | None = None
        self._seen: float | None = None

    def _apply(self) -> None:
        self._before = self._filter.lamb
        self._filter.lamb = self._before * self._factor
        self._seen = self._filter.lamb

    def _undo(self) -> None:
        if self._before is not None:
            self._filter.lamb = self._before

    def observed(self) -> Evidence:
        """Reads the strength back, now while it is on, and as it was found then."""
        now = self._filter.lamb if self.is_on else self._seen
        holds = self._before is not None and now is not None and now != self._before
        return Evidence(holds, f"{self.name}: strength {now} where {self._before} was set")

    def gone(self) -> Evidence:
        """Reads the strength again."""
        if self._before is None:
            return Evidence(None, f"{self.name}: never put on")
        return Evidence(self._filter.lamb == self._before, f"{self.name}: strength is {self._filter.lamb}")
