"""Latches: an entry that was handed over to a person does not reopen by itself (kernel decision 4).

A latch opens when what was handed over has been GREEN for a whole relapse watch, or when a person says so.
"""

from __future__ import annotations

from dataclasses import dataclass

from premortem.core.clock import Now
from premortem.core.incident import Incident
from premortem.core.observer import Observer
from premortem.core.plan import Plan


@dataclass(slots=True)
class Latch:
    """What must be GREEN, since when it has been, and for how many observations."""

    watches: set[int]
    since: Now | None = None
    green: int = 0


class Latches:
    """The latched entries."""

    def __init__(self, plan: Plan, observer: Observer) -> None:
        self._plan = plan
        self._observer = observer
        self._of_entry = {entry: observer.of_entry(entry) for entry in plan.entries}
        self._closed: dict[str, Latch] = {}

    def __bool__(self) -> bool:
        return bool(self._closed)

    def __contains__(self, entry: str) -> bool:
        return entry in self._closed

    def close(self, incident: Incident) -> None:
        """Latch the entry of an incident that was handed over."""
        self.load(incident.entry, set(incident.watches))

    def open(self, entry: str) -> None:
        """A person opens it."""
        self._closed.pop(entry, None)

    def open_all(self) -> list[str]:
        """A person accepts a new normal; returns the entries that were latched."""
        entries = list(self._closed)
        self._closed.clear()
        return entries

    def observe(self, now: Now) -> list[str]:
        """One observation; returns the entries whose latch opened."""
        opened = [entry for entry, latch in self._closed.items() if self._is_through(entry, latch, now)]
        for entry in opened:
            del self._closed[entry]
        return opened

    def state(self) -> dict[str, list[int]]:
        """Watches by entry."""
        return {entry: sorted(latch.watches) for entry, latch in self._closed.items()}

    def load(self, entry: str, watches: set[int]) -> None:
        """Latch an entry that the register has; its GREEN begins anew."""
        if entry in self._plan.entries:
            self._closed[entry] = Latch(watches)

    def _is_through(self, entry: str, latch: Latch, now: Now) -> bool:
        length = self._plan.entries[entry].relapse_watch
        green = self._observer.assess(latch.watches)
        if green is False or self._observer.symptoms(self._of_entry[entry]):
            latch.since, latch.green = None, 0
        elif green is None:
            if length.unit == "seconds":
                latch.since = None  # seconds count only without a gap; ticks hold
        else:
            latch.green += 1
            latch.since = latch.since or now
            enough = length.unit == "seconds" or latch.green >= length.amount
            return enough and length.has_passed(latch.since, now)
        return False
