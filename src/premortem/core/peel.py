"""The way down: after recovery every reversible rung is taken off in reverse order, and each peel is verified.

On relapse the rung is put back, and the incident closes as ``recovered (held)`` (law 3). A rung that names the
watch of its cause (``peel_after``) stands until that is GREEN: a fallback is not taken from under a service to
prove that what it stands for is still broken.
"""

from __future__ import annotations

from collections.abc import Callable

from premortem.core.action import Outcome
from premortem.core.incident import Incident, Phase
from premortem.core.ladder import Relation, Rung
from premortem.core.relapse import WayBack
from premortem.core.site import Site
from premortem.core.verification import Verdict


class Peel:
    """Takes the standing rungs off.

    Args:
        site: the workload as expected.
        yields: asks the engine, between peels, whether something worse comes first.
        done: all that can be is peeled, or a rung is held: the verdict is sealed.
        back: the way back to climbing.
    """

    def __init__(
        self,
        site: Site,
        yields: Callable[[Incident], bool],
        done: Callable[[Incident, Phase], None],
        back: WayBack,
    ) -> None:
        self._site = site
        self._yields = yields
        self._done = done
        self._back = back

    def start(self, incident: Incident) -> None:
        """Peel the newest reversible rung, or close when none stands."""
        incident.window = None
        if self._yields(incident):
            return
        reversible = [s.rung for s in incident.standing if s.rung.relation is not Relation.IRREVERSIBLE]
        lasting = any(not s.rung.is_one_shot for s in incident.standing)  # a setting that is meant to stay
        if incident.hold_peel or (lasting and not reversible):
            self._done(incident, Phase.HELD)
        elif reversible:
            self._take_off(incident, reversible[-1])
        else:
            self._done(incident, Phase.RECOVERED)

    def _take_off(self, incident: Incident, rung: Rung) -> None:
        if self._site.is_cause_gone(incident, rung):
            self._site.undo(incident, rung, Phase.PEELING)
        elif incident.phase is not Phase.PEEL_WAITING:
            incident.current, incident.phase = rung, Phase.PEEL_WAITING
            desk = self._site.desk
            desk.note("outcome", incident.entry, incident, verb="wait", rung=rung.name, until=rung.peel_after)

    def _wait(self, incident: Incident, values: list[float | None]) -> None:
        """Its rungs stand, and its cause is still there: what comes back now is a relapse."""
        lost = self._site.lost_control(incident, values)
        if lost:
            self._back.lost(incident, lost)
        elif self._site.observer.symptoms(incident.watches):
            self._back.relapsed(incident, "seen again while its rungs stood")
        else:
            self.start(incident)

    def outcome(self, incident: Incident, outcome: Outcome) -> None:
        """Something came of the command that this incident waits for on its way down."""
        if incident.phase is Phase.PEELING:
            self._site.note_outcome(incident, "undo", outcome)
            self._site.read(incident, Phase.PEEL_READING)
        elif incident.phase is Phase.PEEL_READING:
            self._read_back(incident, outcome)
        elif incident.phase is Phase.RESTORING:
            self._site.note_outcome(incident, "turn", outcome)
            self._site.read(incident, Phase.RESTORE_READING)
        elif incident.phase is Phase.RESTORE_READING:
            self._put_back_read(incident, outcome)

    def observe(self, incident: Incident, values: list[float | None], *, green: bool | None) -> None:
        """One observation while a peel, or a rung put back, is being verified.

        Without its rung a symptom is a relapse at once; with it put back the detectors get time to clear.
        """
        if incident.phase is Phase.PEEL_WAITING:
            self._wait(incident, values)
            return
        window = incident.window
        assert window is not None
        symptoms = self._site.observer.symptoms(incident.watches)
        if symptoms and window.settled is not None and incident.phase is Phase.PEEL_VERIFYING:
            self._failed(incident, "seen again: " + ", ".join(sorted(symptoms)))
            return
        if symptoms and window.settled is not None and not incident.acting_rung.applies_to(frozenset(symptoms)):
            self._failed(incident, "a symptom came that it cannot mend")  # another fault: its rungs come further up
            return
        verdict = window.take(self._site.desk.now, green=green, values=self._site.baseline.banded(values))
        if verdict is Verdict.GREEN:
            if self._site.is_in_band(incident, window):
                self.start(incident)
            else:
                window.restart()
        elif verdict is Verdict.FAILED:
            self._failed(incident, "not GREEN and inside the healthy band within its deadline")
        elif verdict is Verdict.INCONCLUSIVE:
            self._site.hand_over(incident, "a peel's verification stayed inconclusive: silence is not health")

    def _read_back(self, incident: Incident, outcome: Outcome) -> None:
        rung = incident.acting_rung
        if self._site.matches(incident, outcome):
            self._site.fall(incident, rung)
            self._site.open_window(incident, Phase.PEEL_VERIFYING)
        else:
            self._site.hand_over(incident, f"recovered, but {rung.name!r} could not be undone: its setting is unknown")

    def _failed(self, incident: Incident, why: str) -> None:
        rung = incident.acting_rung
        incident.window = None
        if incident.phase is Phase.RESTORE_VERIFYING:
            self._back.relapsed(incident, f"with {rung.name!r} put back: {why}")
            return
        self._site.desk.note("relapse", incident.entry, incident, rung=rung.name, why=f"without {rung.name!r}: {why}")
        self._site.turn(incident, rung, Phase.RESTORING, why="put back after a relapse")

    def _put_back_read(self, incident: Incident, outcome: Outcome) -> None:
        rung = incident.acting_rung
        if self._site.matches(incident, outcome):
            self._site.stand(incident, rung)
            incident.hold_peel = self._site.is_cause_gone(incident, rung)  # where it is seen again, it is waited for
            self._site.open_window(incident, Phase.RESTORE_VERIFYING)
        else:
            self._site.hand_over(incident, f"{rung.name!r} could not be put back after a relapse")
