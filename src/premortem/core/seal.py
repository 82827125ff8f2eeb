"""The seal on a verdict: every setting that it rests on is read once more, and its evidence is kept.

Covered: a setting that slipped after its read-back, a ledger that does not commit. Not covered: a control whose
read-back lies all the time and that has no witness signal.
"""

from __future__ import annotations

from collections.abc import Callable

from premortem.core.action import Outcome
from premortem.core.incident import Incident, Phase
from premortem.core.site import Site


class Seal:
    """Gives the verdicts.

    Args:
        site: the workload as expected.
        recovered: recovery is sealed: the peel begins.
        lost: a setting is not in force any more: climb on.
    """

    def __init__(
        self, site: Site, recovered: Callable[[Incident], None], lost: Callable[[Incident, str], None]
    ) -> None:  # fmt: skip
        self._site = site
        self._recovered = recovered
        self._lost = lost

    def begin(self, incident: Incident, verdict: Phase | None) -> None:
        """Seal a recovery (``None``), or a final verdict once the peel is done."""
        incident.verdict, incident.window = verdict, None
        incident.to_read = self._site.touched(incident)
        self._next(incident)

    def outcome(self, incident: Incident, outcome: Outcome) -> None:
        """Something came of a last read-back, or of keeping the evidence."""
        if incident.phase is Phase.CONFIRMING:
            self._confirmed(incident, incident.to_read.pop(0), outcome)
        elif outcome.ok is not True:
            self._site.hand_over(incident, f"the evidence of recovery could not be kept: {outcome.detail}")
        elif incident.verdict is None:
            self._recovered(incident)
        else:
            incident.phase = incident.verdict

    def _next(self, incident: Incident) -> None:
        if incident.to_read:
            self._site.read(incident, Phase.CONFIRMING, incident.to_read[0])
        else:
            self._keep(incident)

    def _confirmed(self, incident: Incident, control: str, outcome: Outcome) -> None:
        if self._site.matches(incident, outcome, control):
            self._next(incident)
        elif incident.verdict is None:
            self._lost(incident, control)
        else:
            self._site.hand_over(incident, f"recovered, but {control!r} is not as expected: its setting is unknown")

    def _keep(self, incident: Incident) -> None:
        """Without committed evidence the verdict is not given."""
        incident.phase = Phase.CLOSING
        desk, after, verdict = self._site.desk, incident.recovered_after or "", incident.verdict
        if verdict is None:
            took = desk.tick - incident.opened.tick
            record = desk.record(
                "recovered", incident.entry, incident, after_rung=after, ticks=took, relapses=incident.relapses
            )
        else:
            record = desk.record(
                "held" if verdict is Phase.HELD else "closed", incident.entry, incident,
                verdict=verdict.value, after_rung=after, standing=incident.standing_names,
            )  # fmt: skip
        desk.ask("keep", incident.number, record)
