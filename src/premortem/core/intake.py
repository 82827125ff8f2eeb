"""The intake: what the observer and the vigil saw is put into words, and opens incidents or joins them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from premortem.core.detector import Level
from premortem.core.finding import Finding
from premortem.core.incident import Incident
from premortem.core.observer import Change

if TYPE_CHECKING:
    from premortem.core.engine import Engine


class Intake:
    """Turns changes of assessment into findings, and findings into incidents."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._observer = engine.observer
        self._desk = engine.desk
        self._recheck: set[str] = set()

    def recheck(self, entry: str) -> None:
        """With the next row, what is RED already counts as found: a person opened the latch over it."""
        self._recheck.add(entry)

    def take(self, changes: list[Change], values: list[float | None]) -> None:
        """Report gaps and changes of one row; what is RED or worse opens an incident or joins one."""
        self._report_gaps(values)
        for change in changes:
            finding = self._observer.finding(change, values, self._desk.now)
            if finding.before is None and finding.level is Level.GREEN:
                continue  # warmed up: an assessment began, nothing changed
            self._note(finding)
            if finding.opens_incident:
                self._attach(finding, change[0])
        for index, level in enumerate(self._observer.levels if self._recheck else ()):
            bound = self._observer.watches[index]
            if level is not None and bound.entry in self._recheck:
                finding = self._observer.finding((index, level, level), values, self._desk.now)
                if finding.opens_incident:
                    self._attach(finding, index)
        self._recheck.clear()

    def _report_gaps(self, values: list[float | None]) -> None:
        for index, what in self._observer.new_faults():
            bound = self._observer.watches[index]
            self._desk.note("guard_fault", bound.entry, None, what=what, watch=bound.watch.name)
        for index in self._engine.vigil.look(values, self._desk.now):
            bound = self._observer.watches[index]
            watch = bound.watch
            what = f"{watch.name} is not watched: no value of {watch.signal!r} for {self._engine.plan.probation} ticks"
            self._desk.note("unwatched", bound.entry, None, what=what, signal=watch.signal)
        for name in self._observer.started_fresh:
            self._desk.note("unwatched", name.split("/")[0], None, what=f"{name} starts fresh: nothing saved fits it")
        self._observer.started_fresh = []

    def _note(self, finding: Finding) -> None:
        self._desk.note(
            "finding", finding.entry, self._open_incident(finding.entry),
            risk=finding.risk, watch=finding.watch, signal=finding.signal, symptom=finding.symptom,
            level=None if finding.level is None else finding.level.name,
            before=None if finding.before is None else finding.before.name, value=finding.value,
        )  # fmt: skip

    def _open_incident(self, entry: str) -> Incident | None:
        every = (self._engine.climbing, *self._engine.queue)
        return next((i for i in every if i is not None and i.entry == entry), None)

    def _attach(self, finding: Finding, watch: int) -> None:
        level, incident = finding.level, self._open_incident(finding.entry)
        assert level is not None
        if incident is not None:
            incident.symptoms.add(finding.symptom)
            incident.watches.add(watch)
            incident.level = max(incident.level, level)
        elif finding.entry not in self._engine.latched:
            self._open(finding, watch, level)

    def _open(self, finding: Finding, watch: int, level: Level) -> None:
        incident = Incident(len(self._engine.incidents) + 1, finding.entry, finding.at, level)
        incident.symptoms.add(finding.symptom)
        incident.watches.add(watch)
        self._engine.incidents.append(incident)
        self._desk.note("opened", finding.entry, incident, level=level.name, because=finding.summary)
        if self._keeps_firing(finding.entry):
            self._engine.site.hand_over(incident, "the guard keeps firing: that is a fault of its own")
            self._engine.over(incident)
        else:
            self._engine.queue.append(incident)
            if self._engine.climbing is not None:
                self._desk.note("queued", finding.entry, incident, behind=self._engine.climbing.number)

    def _keeps_firing(self, entry: str) -> bool:
        bound, now = self._engine.plan.entries[entry], self._desk.now
        recent = [i for i in self._engine.incidents if i.entry == entry and not bound.per.has_passed(i.opened, now)]
        return len(recent) > bound.max_incidents
