"""The kernel: a pure state machine (kernel decision 1). No clock, thread, await or I/O inside.

``observe(values, tick, seconds)`` takes one row of measurements, ``outcome(number, outcome)`` what came of a
command; both return commands for the driver. Training step, asyncio service, supervisor, replay, drill and
sabotage campaign all drive this same engine. ``docs/kernel.md`` draws its states.
"""

from __future__ import annotations

import math

from premortem.core.action import Outcome
from premortem.core.baseline import Baseline
from premortem.core.climb import Climb
from premortem.core.command import Command
from premortem.core.desk import RESUME, Desk
from premortem.core.detector import Level
from premortem.core.incident import Incident, Phase
from premortem.core.intake import Intake
from premortem.core.latch import Latches
from premortem.core.memory import load_memory, memory
from premortem.core.observer import Change, Observer
from premortem.core.peel import Peel
from premortem.core.plan import Plan
from premortem.core.relapse import RelapseWatch
from premortem.core.restart import Restart
from premortem.core.seal import Seal
from premortem.core.site import Site
from premortem.core.vigil import Vigil

_UP = frozenset({Phase.ACTING, Phase.READING, Phase.ASKING, Phase.UNDOING, Phase.UNREADING})
_DOWN = frozenset({Phase.PEELING, Phase.PEEL_READING, Phase.RESTORING, Phase.RESTORE_READING})
_SEALING = frozenset({Phase.CONFIRMING, Phase.CLOSING})
_PEEL_WINDOWS = frozenset({Phase.PEEL_WAITING, Phase.PEEL_VERIFYING, Phase.RESTORE_VERIFYING})
_WITHOUT_WINDOW = frozenset({Phase.AWAITING, Phase.PEEL_WAITING})


class Engine:
    """One climbing incident per workload; others queue and are assessed again when it closes."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.observer = Observer(plan)
        self.baseline = Baseline(plan)
        self.desk = Desk()
        self.site = Site(plan, self.observer, self.baseline, self.desk)
        self.vigil = Vigil(plan, self.observer)
        self.latched = Latches(plan, self.observer)
        self.incidents: list[Incident] = []
        self.climbing: Incident | None = None
        self.queue: list[Incident] = []
        self._climb = Climb(self.site, self._yields, lambda i: self._relapse_watch.open(i))
        self._seal = Seal(self.site, lambda i: self._peel.start(i), self._climb.lost)
        self._relapse_watch = RelapseWatch(self.site, self._climb, self._seal.begin)
        self._peel = Peel(self.site, self._yields, self._seal.begin, self._climb)
        self._restart = Restart(self, self._climb, self._relapse_watch)
        self._intake = Intake(self)
        self._width = len(plan.signals)
        self._busy = True
        self._healthy = False
        self._ahead = 0.0
        self._remembered: float | None = None

    # --- what a driver calls -----------------------------------------------------------------

    def observe(self, values: list[float | None], tick: int, seconds: float) -> list[Command]:
        """Take one row of observations (``None`` is missing), in the plan's slot order."""
        if self._remembered is not None:  # a new process counts its seconds from 0; the kernel's go on
            self._ahead, self._remembered = max(0.0, self._remembered - seconds), None
        seconds += self._ahead
        desk = self.desk
        desk.tick, desk.seconds = tick, seconds
        if len(values) != self._width:
            what = f"a row of {len(values)} values for {self._width} signals: taken as missing"
            desk.note("guard_fault", "", self.climbing, what=what)
            values = [None] * self._width
        changes = self.observer.observe(values, seconds)
        if changes or self._busy:
            self._attend(changes, values)
        if self._healthy:
            flagged = frozenset(self.observer.watches[i].slot for i, _, _ in changes)
            good = self.baseline.healthy(values, tick, flagged) if changes else self.baseline.healthy(values, tick)
            if good is not None:
                desk.mark_good(good)
        return desk.take() if desk.has_some else []

    def outcome(self, number: int, outcome: Outcome) -> list[Command]:
        """Say what came of a command; an outcome that nobody waits for any more is noted and ignored."""
        owner = self.desk.settle(number)
        if owner is None:
            self.desk.note("guard_fault", "", self.climbing, what=f"an outcome of command {number} came too late")
        else:
            self._settle(owner, outcome)
            self._next_in_queue()
        self._busy, self._healthy = True, False
        return self.desk.take()

    @property
    def open_incidents(self) -> list[Incident]:
        """Without a verdict yet: the one that climbs first, then those that wait for it."""
        return [incident for incident in (self.climbing, *self.queue) if incident is not None]

    def candidate(self, tick: int) -> None:
        """A checkpoint was saved at this tick; it is good after a probation of healthy ticks."""
        if self.climbing is None and not self.queue:
            self.baseline.candidate(tick)

    def guard_fault(self, what: str) -> list[Command]:
        """Something of the guard's own failed: a finding about the guard, never an end of the workload."""
        self.desk.note("guard_fault", "", self.climbing, what=what)
        return self.desk.take()

    def acknowledge(self, entry: str, who: str) -> list[Command]:
        """A person releases the latch of an entry that was handed over; what is still RED opens anew."""
        self.latched.open(entry)
        self._intake.recheck(entry)
        self._busy = True
        self.desk.note("acknowledged", entry, None, who=who)
        return self.desk.take()

    def rebaseline(self, who: str) -> list[Command]:
        """A person accepts a new normal: detectors and bands are learned again. The only way to do so."""
        self.baseline.forget()
        self.observer.restart()
        self.latched.open_all()
        self._busy, self._healthy = True, False
        self.desk.note("rebaselined", "", None, who=who)
        return self.desk.take()

    def state(self) -> dict[str, object]:
        """What must never be rolled back: incidents, tries, latches (kernel decision 8)."""
        return memory(self)

    def load(self, state: dict[str, object]) -> list[Command]:
        """Resume the guard of a resumed run (law 11): settings first, then the open incident, where it stood."""
        strangers = load_memory(self, state)
        self._remembered = self.desk.seconds
        self._busy, self._healthy = True, False
        self._restart.begin(strangers)
        return self.desk.take()

    def _attend(self, changes: list[Change], values: list[float | None]) -> None:
        """The slow path: something changed, or an incident, a latch or a silence is open."""
        self._intake.take(changes, values)
        self._give_up_waiting()
        if self.climbing is not None and not self._restart.is_open:
            self._carry_on(self.climbing, values)
        for entry in self.latched.observe(self.desk.now):
            self.desk.note("acknowledged", entry, None, who="GREEN for a whole relapse watch")
        self._next_in_queue()
        is_open = self.climbing is not None or bool(self.latched) or self._restart.is_open
        self._busy = is_open or self.vigil.is_waiting
        self._healthy = not is_open and self.vigil.is_healthy()
        if not self._healthy:
            self.baseline.disturbed()

    # --- the climbing incident ---------------------------------------------------------------

    def _carry_on(self, incident: Incident, values: list[float | None]) -> None:
        if incident.window is None and incident.phase not in _WITHOUT_WINDOW:
            return
        if (incident.phase is Phase.RELAPSE_WATCH or self._is_pressed()) and self._yields(incident):
            return
        self.site.start_again_if_time_went_back(incident)
        green = self.observer.assess(incident.watches)
        if green is True and not self.site.is_witnessed(incident, values):
            green = None
        if green is not False and self.site.lost_control(incident, values):
            green = False
        if green is None and incident.window is not None and self.site.is_warming_up(incident, values):
            incident.window.hold(self.desk.now)
        if incident.phase is Phase.RELAPSE_WATCH:
            self._relapse_watch.observe(incident, values, green=green)
        else:
            way = self._peel if incident.phase in _PEEL_WINDOWS else self._climb
            way.observe(incident, values, green=green)
        if incident.phase.is_over:
            self.over(incident)

    def _give_up_waiting(self) -> None:
        """A command without an outcome is unknown, not failed: the read-back settles it."""
        for number, (owner, issued) in list(self.desk.waiting.items()):
            if self.plan.patience.has_passed(issued, self.desk.now):
                self.desk.settle(number)
                self._settle(owner, Outcome(None, None, f"no outcome within {self.plan.patience}"))

    def _settle(self, owner: int, outcome: Outcome) -> None:
        incident = self.climbing
        if owner == RESUME:
            self._restart.outcome(outcome)
            return
        if incident is None or incident.number != owner:
            return
        if incident.phase in _UP:
            self._climb.outcome(incident, outcome)
        elif incident.phase in _DOWN:
            self._peel.outcome(incident, outcome)
        elif incident.phase in _SEALING:
            self._seal.outcome(incident, outcome)
        if incident.phase.is_over:
            self.over(incident)

    def over(self, incident: Incident) -> None:
        """A verdict stands: the next in the queue may climb; what was handed over is latched."""
        if incident is self.climbing:
            self.climbing = None
        if incident.phase is Phase.HANDED_OVER:
            self.latched.close(incident)

    # --- the queue ---------------------------------------------------------------------------

    def _next_in_queue(self) -> None:
        """What is RED now comes first, the worst of it; what went quiet meanwhile must still be seen healthy.

        In a run that was ended the rest waits for the next one: a restore would change the weights that were kept.
        """
        while self.climbing is None and self.queue and not (self._restart.is_open or self.site.has_ended):
            self.queue.sort(key=lambda i: (not self.observer.symptoms(i.watches), -i.level, i.number))
            incident = self.climbing = self.queue.pop(0)
            self._take_up(incident)

    def _take_up(self, incident: Incident) -> None:
        if incident.entry not in self.plan.entries:
            self.site.hand_over(incident, "the register no longer has its entry")
            self.over(incident)
            return
        half_way = self.plan.entries[incident.entry].carry_out_all and incident.carried and not incident.judged
        if self.observer.symptoms(incident.watches) or half_way:
            self.site.refresh_symptoms(incident)
            self._climb.start(incident)
        else:
            self._relapse_watch.open(incident)
        if incident.phase.is_over:
            self.over(incident)

    def _is_pressed(self) -> bool:
        """Whether a limit is foreseen that does not wait for a verification to end (kernel decision 19)."""
        critical = [i for i in self.queue if i.level is Level.CRITICAL]
        return any(self.observer.left(i.watches) < math.inf for i in critical)

    def _yields(self, incident: Incident) -> bool:
        """CRITICAL preempts, but only between rungs (kernel decision 4); one without a rung yields to any."""
        red = [i for i in self.queue if self.observer.symptoms(i.watches)]
        if incident.level is not Level.CRITICAL:
            worse = [i for i in red if i.level is Level.CRITICAL]
        else:
            worse = []
        if incident.phase is Phase.PEEL_WAITING or (incident.phase is Phase.RELAPSE_WATCH and not incident.tried):
            worse = red
        if not worse:
            return False
        self.desk.note("queued", incident.entry, incident, behind=worse[0].number)
        incident.judged = incident.judged and incident.phase is not Phase.VERIFYING  # what was cut short begins anew
        incident.phase, incident.window = Phase.QUEUED, None
        self.queue.append(incident)
        self.climbing = None
        return True
