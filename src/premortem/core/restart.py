"""A restart: settings are put in force again, then the open incident goes on in the phase that it was in (law 11)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from premortem.core.action import Outcome, Owner
from premortem.core.climb import Climb
from premortem.core.incident import Incident, Phase
from premortem.core.memory import rungs_of
from premortem.core.relapse import RelapseWatch
from premortem.core.resume import Resume

if TYPE_CHECKING:
    from premortem.core.engine import Engine

_SEALING = frozenset({Phase.CONFIRMING, Phase.CLOSING})


class Restart:
    """Takes up where the last process ended."""

    def __init__(self, engine: Engine, climb: Climb, relapse_watch: RelapseWatch) -> None:
        self._engine = engine
        self._climb = climb
        self._relapse_watch = relapse_watch
        self._resume = Resume(engine.site, self._could_not_put_back, self._resumed)

    @property
    def is_open(self) -> bool:
        """Whether settings are still being put back: nothing else is done before."""
        return self._resume.is_open

    def begin(self, strangers: Iterable[tuple[str, Owner]]) -> None:
        """Begin, once the engine's memory is loaded."""
        stacks = self._engine.site.stacks
        self._resume.begin([c for c, stack in stacks.items() if stack.owners and self._can_put_back(c)], strangers)

    def outcome(self, outcome: Outcome) -> None:
        """What came of a command of the restart."""
        self._resume.outcome(outcome)

    def _can_put_back(self, control: str) -> bool:
        """Whether every override on the control may be turned again without doing anything twice."""
        by_number = {i.number: i for i in self._engine.incidents}
        owners = self._engine.site.stacks[control].owners
        rungs = [rungs_of(self._engine, by_number[o.incident].entry)[o.rung] for o in owners]
        return all(rung.can_be_put_back for rung in rungs)

    def _could_not_put_back(self, control: str) -> None:
        """What was in force before the restart is not any more, and nobody knows what is."""
        what = f"after a restart the setting of {control!r} could not be put in force"
        self._engine.desk.note("guard_fault", "", None, what=what)
        for incident in self._engine.open_incidents:
            if control in self._engine.site.touched(incident):
                self._engine.site.hand_over(incident, what)
                self._engine.over(incident)
                self._engine.queue = [i for i in self._engine.queue if i is not incident]

    def _resumed(self) -> None:
        """Settings stand; the open incident goes on in the phase that it was in."""
        incident = self._engine.climbing
        if incident is None:
            return
        self._go_on(incident, incident.phase)
        if incident.phase.is_over:
            self._engine.over(incident)

    def _go_on(self, incident: Incident, phase: Phase) -> None:
        settle_by_reading = {Phase.ACTING: Phase.READING, Phase.RESTORING: Phase.RESTORE_READING}
        if incident.entry not in self._engine.plan.entries:
            self._engine.site.hand_over(incident, "the register no longer has its entry")
        elif phase in (Phase.RELAPSE_WATCH, Phase.PEEL_WAITING, *_SEALING):
            self._relapse_watch.open(incident)
        elif phase is Phase.AWAITING:
            return
        elif incident.current is None:
            self._climb.start(incident)
        elif phase in (Phase.ACTING, Phase.READING, Phase.RESTORING, Phase.RESTORE_READING):
            self._engine.site.read(incident, settle_by_reading.get(phase, phase))
        elif phase in (Phase.UNDOING, Phase.UNREADING):
            self._engine.site.undo(incident, incident.acting_rung, Phase.UNDOING)  # a second undo changes nothing
        elif phase in (Phase.PEELING, Phase.PEEL_READING):
            self._engine.site.undo(incident, incident.acting_rung, Phase.PEELING)
        elif phase is Phase.ASKING:
            self._climb.ask(incident)
        else:
            self._engine.site.open_window(incident, phase)
