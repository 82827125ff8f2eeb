"""The relapse watch: after a rung helped, or a symptom left by itself, it must stay away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from premortem.core.clock import ticks
from premortem.core.incident import Incident, Phase
from premortem.core.site import Site
from premortem.core.verification import Window


class WayBack(Protocol):
    """How an incident goes back to climbing."""

    def relapsed(self, incident: Incident, why: str) -> None:
        """What was thought mended is back."""
        ...

    def lost(self, incident: Incident, control: str) -> None:
        """A setting that the recovery rests on is no longer in force."""
        ...


class RelapseWatch:
    """Counts GREEN observations, or seconds without a gap; silence holds its clock, four times over."""

    def __init__(self, site: Site, back: WayBack, passed: Callable[[Incident, None], None]) -> None:
        self._site = site
        self._back = back
        self._passed = passed

    def open(self, incident: Incident) -> None:
        """Begin to watch."""
        now, length = self._site.desk.now, self._site.relapse_length(incident)
        incident.phase, incident.since = Phase.RELAPSE_WATCH, now
        incident.window = Window(now, ticks(0), max(1, int(length.amount)), length.times(4))

    def observe(self, incident: Incident, values: list[float | None], *, green: bool | None) -> None:
        """One observation. A symptom at RED or a lost setting is a relapse; a YELLOW only holds the clock."""
        window = incident.window
        assert window is not None
        lost = self._site.lost_control(incident, values)
        if lost:
            self._back.lost(incident, lost)
        elif self._site.observer.symptoms(incident.watches):
            self._back.relapsed(incident, "seen again in the relapse watch")
        elif self._is_through(incident, window, values, green=green):
            self._judge(incident, window)
        elif window.deadline.has_passed(window.opened, self._site.desk.now):
            self._site.hand_over(incident, "the relapse watch stayed inconclusive: silence is not health")

    def _is_through(
        self, incident: Incident, window: Window, values: list[float | None], *, green: bool | None
    ) -> bool:  # fmt: skip
        now, length = self._site.desk.now, self._site.relapse_length(incident)
        assert incident.since is not None
        if green is True:
            window.add(self._site.baseline.banded(values))
            enough = length.unit == "seconds" or window.green >= window.confirm
            return enough and length.has_passed(incident.since, now)
        if length.unit == "seconds":
            incident.since = now  # seconds count only without a gap
        return False

    def _judge(self, incident: Incident, window: Window) -> None:
        """GREEN all the time is not yet healthy: the mean must lie inside the band too (kernel decision 5)."""
        confirm = 10 if incident.current is None else incident.current.confirm
        if self._site.is_in_band(incident, window, confirm):
            self._passed(incident, None)
        elif not self._site.baseline.is_unknown:
            self._back.relapsed(incident, "GREEN, but outside the healthy band")
