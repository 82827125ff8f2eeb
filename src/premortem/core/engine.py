"""The kernel: a pure state machine (kernel decision 1). No clock, thread, await or I/O inside.

``observe(values, tick, seconds)`` takes one row of measurements, ``outcome(number, outcome)`` what came of a
command; both return commands for the driver. Training step, asyncio service, supervisor, replay, drill and
sabotage campaign all drive this same engine.
"""

from __future__ import annotations

from premortem.core.action import Outcome
from premortem.core.baseline import Baseline
from premortem.core.climb import Climb
from premortem.core.clock import Now
from premortem.core.command import Command
from premortem.core.desk import Desk
from premortem.core.detector import Level
from premortem.core.finding import Finding
from premortem.core.incident import Incident, Phase
from premortem.core.memory import load_memory, memory
from premortem.core.observer import Change, Observer
from premortem.core.peel import Peel
from premortem.core.plan import Plan
from premortem.core.site import Site

_UP = frozenset({Phase.ACTING, Phase.READING, Phase.ASKING, Phase.UNDOING, Phase.UNREADING, Phase.CLOSING})
_DOWN = frozenset({Phase.PEELING, Phase.PEEL_READING, Phase.RESTORING, Phase.RESTORE_READING})


class Engine:
    """One climbing incident per workload; others queue and are assessed again when it closes."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.observer = Observer(plan)
        self.baseline = Baseline(plan)
        self.desk = Desk()
        self.site = Site(plan, self.observer, self.baseline, self.desk)
        self._peel = Peel(self.site, lambda incident, why: self._climb.relapsed(incident, why))
        self._climb = Climb(self.site, self._yields, self._peel.start)
        self.incidents: list[Incident] = []
        self.climbing: Incident | None = None
        self.queue: list[Incident] = []
        self.latched: dict[str, Now | None] = {}
        self._watches_of = {entry: self.observer.of_entry(entry) for entry in plan.entries}
        self._vital = [i for i, w in enumerate(plan.watches) if w.watch.required]
        self._busy = True
        self._healthy = False

    # --- what a driver calls -----------------------------------------------------------------

    def observe(self, values: list[float | None], tick: int, seconds: float) -> list[Command]:
        """Take one row of observations (``None`` is missing), in the plan's slot order."""
        changes = self.observer.observe(values)
        if changes or self._busy:
            self.desk.now = Now(tick, seconds)
            self._attend(changes, values)
        if self._healthy:
            good = self.baseline.healthy(values, tick)
            if good is not None:
                self.desk.now = Now(tick, seconds)
                self.desk.mark_good(good)
        return self.desk.take() if self.desk.has_some else []

    def outcome(self, number: int, outcome: Outcome) -> list[Command]:
        """Say what came of a command; an outcome that nobody waits for any more is noted and ignored."""
        owner = self.desk.settle(number)
        incident = self.climbing
        if incident is None or owner != incident.number:
            self.desk.note("guard_fault", "", None, what=f"an outcome of command {number} came too late")
        elif incident.phase in _UP:
            self._climb.outcome(incident, outcome)
        elif incident.phase in _DOWN:
            self._peel.outcome(incident, outcome)
        if incident is not None and incident.phase.is_over:
            self._over(incident)
        self._busy = True
        return self.desk.take()

    def candidate(self, tick: int) -> None:
        """A checkpoint was saved at this tick; it is good after a probation of healthy ticks."""
        if self.climbing is None:
            self.baseline.candidate(tick)

    def guard_fault(self, what: str) -> list[Command]:
        """Something of the guard's own failed: a finding about the guard, never an end of the workload."""
        self.desk.note("guard_fault", "", self.climbing, what=what)
        return self.desk.take()

    def acknowledge(self, entry: str, who: str) -> list[Command]:
        """A person releases the latch of an entry that was handed over."""
        self.latched.pop(entry, None)
        self._busy = True
        self.desk.note("acknowledged", entry, None, who=who)
        return self.desk.take()

    def rebaseline(self, who: str) -> list[Command]:
        """A person accepts a new normal: detectors and bands are learned again. The only way to do so."""
        self.baseline.forget()
        self.observer.restart()
        self.latched.clear()
        self._busy = True
        self.desk.note("rebaselined", "", None, who=who)
        return self.desk.take()

    def state(self) -> dict[str, object]:
        """What must never be rolled back: incidents, tries, latches (kernel decision 8)."""
        return memory(self)

    def load(self, state: dict[str, object]) -> list[Command]:
        """Resume the guard of a resumed run (law 11); an open incident climbs on from where it stood."""
        load_memory(self, state)
        self._busy = True
        if self.climbing is not None and not self.climbing.phase.is_over:
            self._climb.start(self.climbing)
        return self.desk.take()

    def _attend(self, changes: list[Change], values: list[float | None]) -> None:
        """The slow path: something changed, or an incident or a latch is open."""
        if changes:
            self._report(changes, values)
        if self.climbing is not None:
            self._carry_on(self.climbing, values)
        if self.latched:
            self._release_latches()
        self._next_in_queue()
        self._busy = self.climbing is not None or bool(self.latched)
        self._healthy = not self._busy and self._is_healthy()
        if not self._healthy:
            self.baseline.disturbed()

    # --- findings ----------------------------------------------------------------------------

    def _report(self, changes: list[Change], values: list[float | None]) -> None:
        for index, what in self.observer.new_faults():
            bound = self.observer.watches[index]
            self.desk.note("guard_fault", bound.entry, None, what=what, watch=bound.watch.name)
        for change in changes:
            finding = self.observer.finding(change, values, self.desk.now)
            if finding.before is None and finding.level is Level.GREEN:
                continue  # warmed up: an assessment began, nothing changed
            self._note(finding)
            if finding.opens_incident:
                self._attach(finding, change[0])

    def _note(self, finding: Finding) -> None:
        self.desk.note(
            "finding", finding.entry, self.climbing,
            risk=finding.risk, watch=finding.watch, signal=finding.signal, symptom=finding.symptom,
            level=None if finding.level is None else finding.level.name,
            before=None if finding.before is None else finding.before.name, value=finding.value,
        )  # fmt: skip

    def _attach(self, finding: Finding, watch: int) -> None:
        level = finding.level
        assert level is not None
        for incident in (self.climbing, *self.queue):
            if incident is not None and incident.entry == finding.entry:
                incident.symptoms.add(finding.symptom)
                incident.watches.add(watch)
                incident.level = max(incident.level, level)
                return
        if finding.entry not in self.latched:
            self._open(finding, watch, level)

    def _open(self, finding: Finding, watch: int, level: Level) -> None:
        incident = Incident(len(self.incidents) + 1, finding.entry, finding.at, level)
        incident.symptoms.add(finding.symptom)
        incident.watches.add(watch)
        self.incidents.append(incident)
        self.desk.note("opened", finding.entry, incident, level=level.name, because=finding.summary)
        if self._keeps_firing(finding.entry):
            self.site.hand_over(incident, "the guard keeps firing: that is a fault of its own")
            self.latched[incident.entry] = None
        else:
            self.queue.append(incident)
            if self.climbing is not None:
                self.desk.note("queued", finding.entry, incident, behind=self.climbing.number)

    def _keeps_firing(self, entry: str) -> bool:
        bound, now = self.plan.entries[entry], self.desk.now
        recent = [i for i in self.incidents if i.entry == entry and not bound.per.has_passed(i.opened, now)]
        return len(recent) > bound.max_incidents

    # --- the climbing incident ---------------------------------------------------------------

    def _carry_on(self, incident: Incident, values: list[float | None]) -> None:
        if incident.window is None:
            self._give_up_waiting(incident)
        else:
            green = self.observer.assess(incident.watches)
            if green is not False and not self.site.in_force(values):
                green = False
            way = self._climb if incident.phase in (Phase.VERIFYING, Phase.RELAPSE_WATCH) else self._peel
            way.observe(incident, values, green=green)
        if incident.phase.is_over:
            self._over(incident)

    def _give_up_waiting(self, incident: Incident) -> None:
        """A command without an outcome is unknown, not failed: the read-back settles it."""
        for number, (owner, issued) in list(self.desk.waiting.items()):
            if owner == incident.number and self.plan.patience.has_passed(issued, self.desk.now):
                self.desk.settle(number)
                late = Outcome(None, None, f"no outcome within {self.plan.patience}")
                (self._climb if incident.phase in _UP else self._peel).outcome(incident, late)

    def _over(self, incident: Incident) -> None:
        if incident is self.climbing:
            self.climbing = None
        if incident.phase is Phase.HANDED_OVER:
            self.latched[incident.entry] = None

    def _next_in_queue(self) -> None:
        """Worst first; one whose symptoms went away meanwhile closes without a rung."""
        while self.climbing is None and self.queue:
            self.queue.sort(key=lambda i: (-i.level, i.number))
            incident = self.queue.pop(0)
            still = self.observer.symptoms(incident.watches)
            if not still and incident.opened != self.desk.now and not incident.standing:
                self.site.close(incident, Phase.RECOVERED)
                continue
            self.climbing = incident
            self._climb.start(incident)
            if incident.phase.is_over:
                self._over(incident)

    def _yields(self, incident: Incident) -> bool:
        """CRITICAL preempts, but only between rungs (kernel decision 4)."""
        worse = [i for i in self.queue if i.level is Level.CRITICAL]
        if incident.level is Level.CRITICAL or not worse:
            return False
        self.desk.note("queued", incident.entry, incident, behind=worse[0].number)
        incident.phase = Phase.QUEUED
        self.queue.append(incident)
        self.climbing = worse[0]
        self.queue.remove(worse[0])
        self._climb.start(worse[0])
        if worse[0].phase.is_over:
            self._over(worse[0])
        return True

    # --- health ------------------------------------------------------------------------------

    def _is_healthy(self) -> bool:
        """Nothing RED, nothing vital unknown. YELLOW is healthy: most slow windows of a healthy run are."""
        levels = self.observer.levels
        if any(level is not None and level >= Level.RED for level in levels):
            return False
        return all(levels[i] is not None for i in self._vital)

    def _release_latches(self) -> None:
        """A latch opens after the entry has been GREEN for a whole relapse watch."""
        now = self.desk.now
        for entry, since in list(self.latched.items()):
            if self.observer.assess(self._watches_of[entry]) is False:
                self.latched[entry] = None
            elif since is None:
                self.latched[entry] = now
            elif self.plan.entries[entry].relapse_watch.has_passed(since, now):
                del self.latched[entry]
                self.desk.note("acknowledged", entry, None, who="GREEN for a whole relapse watch")
