"""The way down: after recovery every reversible rung is taken off in reverse order, and each peel is verified.

On relapse the rung is put back, and the incident closes as ``recovered (held)`` (law 3).
"""

from __future__ import annotations

from collections.abc import Callable

from premortem.core.action import Outcome
from premortem.core.incident import Incident, Phase
from premortem.core.ladder import Relation
from premortem.core.site import Site
from premortem.core.verification import Verdict


class Peel:
    """Takes the standing rungs off.

    Args:
        site: the workload as expected.
        yields: asks the engine, between peels, whether something worse comes first.
        done: all that can be is peeled, or a rung is held: the verdict is sealed.
        relapsed: the way back to climbing.
    """

    def __init__(
        self,
        site: Site,
        yields: Callable[[Incident], bool],
        done: Callable[[Incident, Phase], None],
        relapsed: Callable[[Incident, str], None],
    ) -> None:
        self._site = site
        self._yields = yields
        self._done = done
        self._relapsed = relapsed

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
            self._site.undo(incident, reversible[-1], Phase.PEELING)
        else:
            self._done(incident, Phase.RECOVERED)

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
            self._relapsed(incident, f"with {rung.name!r} put back: {why}")
            return
        self._site.desk.note("relapse", incident.entry, incident, rung=rung.name, why=f"without {rung.name!r}: {why}")
        self._site.turn(incident, rung, Phase.RESTORING, why="put back after a relapse")

    def _put_back_read(self, incident: Incident, outcome: Outcome) -> None:
        rung = incident.acting_rung
        if self._site.matches(incident, outcome):
            self._site.stand(incident, rung)
            incident.hold_peel = True
            self._site.open_window(incident, Phase.RESTORE_VERIFYING)
        else:
            self._site.hand_over(incident, f"{rung.name!r} could not be put back after a relapse")
