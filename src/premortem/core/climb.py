"""The climb: how one incident moves from rung to rung, to a verified recovery or a hand-over.

One transition a method, each ending in a phase that waits for an outcome or for observations. The laws it
keeps: a verdict only from verification (1), silence holds (2), rungs say when they apply (3), tries are
capped (9).
"""

from __future__ import annotations

from collections.abc import Callable

from premortem.core.action import Outcome
from premortem.core.command import Target
from premortem.core.incident import Incident, Phase
from premortem.core.ladder import Relation, Rung
from premortem.core.site import Site
from premortem.core.verification import Verdict, Window


class Climb:
    """The way up. ``yields`` asks the engine, between rungs, whether something worse comes first."""

    def __init__(self, site: Site, yields: Callable[[Incident], bool], recovered: Callable[[Incident], None]) -> None:
        self._site = site
        self._yields = yields
        self._recovered = recovered

    def start(self, incident: Incident) -> None:
        """Choose the first rung that applies, is available and has tries left."""
        if self._yields(incident):
            return
        for rung in self._site.entry(incident).rungs:
            why_not = self._why_not(incident, rung)
            if why_not is None:
                incident.tried[rung.name] = incident.tried.get(rung.name, 0) + 1
                self._site.turn(incident, rung, Phase.ACTING)
                return
            if rung.name not in incident.tried:
                self._note(incident, rung, "passed over", why_not)
        self._spent(incident)

    def outcome(self, incident: Incident, outcome: Outcome) -> None:
        """Something came of the command that this incident waits for on its way up."""
        if incident.phase is Phase.ACTING:
            # whatever the action says of itself, the setting is read back: "it ran" is not "it helped"
            self._site.note_outcome(incident, "turn", outcome)
            self._site.read(incident, Phase.READING)
        elif incident.phase is Phase.READING:
            self._read_back(incident, outcome)
        elif incident.phase is Phase.ASKING:
            self._answered(incident, outcome)
        elif incident.phase is Phase.UNDOING:
            self._site.note_outcome(incident, "undo", outcome)
            self._site.read(incident, Phase.UNREADING)
        elif incident.phase is Phase.UNREADING:
            self._unread(incident, outcome)
        elif incident.phase is Phase.CLOSING:
            self._evidence_kept(incident, outcome)

    def observe(self, incident: Incident, values: list[float | None], *, green: bool | None) -> None:
        """One observation while verification or the relapse watch is open."""
        window = incident.window
        assert window is not None
        if incident.phase is Phase.VERIFYING:
            self._verify(incident, window, values, green=green)
        elif green is False and self._is_back(incident, values):
            self.relapsed(incident, "seen again in the relapse watch")
        else:
            self._watch(incident, window, values, green=green)

    def relapsed(self, incident: Incident, why: str) -> None:
        """What was thought mended is back: climb on."""
        incident.relapses += 1
        rung = "" if incident.current is None else incident.current.name
        self._site.desk.note("relapse", incident.entry, incident, rung=rung, why=why)
        incident.recovered_after, incident.window = None, None
        self._site.refresh_symptoms(incident)
        self.start(incident)

    # --- rungs -------------------------------------------------------------------------------

    def _why_not(self, incident: Incident, rung: Rung) -> str | None:
        if rung.control not in self._site.stacks:
            return f"the workload has no control {rung.control!r}"
        if not rung.applies_to(frozenset(incident.symptoms)):
            return "it cannot mend " + ", ".join(sorted(incident.symptoms - rung.mends))
        if incident.tried.get(rung.name, 0) >= rung.tries:
            return "its tries are spent"
        if self._site.would_change_nothing(rung):
            return "it would change nothing: the setting is there already"
        return None

    def _spent(self, incident: Incident) -> None:
        last = self._site.entry(incident).contingency
        if last is not None and last.name not in incident.tried and last.control in self._site.stacks:
            incident.tried[last.name] = 1
            self._site.turn(incident, last, Phase.ACTING, why="the ladder is spent")
        else:
            self._site.hand_over(incident, "the ladder is spent")

    def _read_back(self, incident: Incident, outcome: Outcome) -> None:
        rung = incident.acting_rung
        fits = self._site.matches(incident, outcome)
        if rung.ends_run:
            told = "" if fits else ", and its setting was not read back"
            self._site.hand_over(incident, f"the ladder is spent: {rung.name}{told}")
        elif fits:
            self._site.stand(incident, rung)
            self._site.open_window(incident, Phase.VERIFYING)
        else:
            self._rung_failed(incident, "its setting is not in force")

    def _rung_failed(self, incident: Incident, why: str) -> None:
        rung = incident.acting_rung
        self._note(incident, rung, "failed", why)
        incident.window = None
        self._site.refresh_symptoms(incident)
        was_in_force = any(s.rung is rung for s in incident.standing)
        stays = was_in_force and rung.relation is Relation.CUMULATIVE
        if stays or rung.relation is Relation.IRREVERSIBLE:
            self.start(incident)
        else:
            self._site.undo(incident, rung, Phase.UNDOING)

    def _unread(self, incident: Incident, outcome: Outcome) -> None:
        if self._site.matches(incident, outcome):
            self._site.fall(incident, incident.acting_rung)
            self.start(incident)
        else:
            self._site.hand_over(incident, f"{incident.acting_rung.name!r} could not be undone: its setting is unknown")

    # --- verification ------------------------------------------------------------------------

    def _verify(self, incident: Incident, window: Window, values: list[float | None], *, green: bool | None) -> None:
        if green is False and window.settled is not None and self._cannot_mend_now(incident):
            self._rung_failed(incident, "a symptom came that it cannot mend")
            return
        verdict = window.take(self._site.desk.now, green=green, values=self._site.baseline.banded(values))
        if verdict is Verdict.GREEN and self._site.is_in_band(incident, window):
            self._ask_condition(incident)
        elif verdict is Verdict.FAILED:
            self._rung_failed(incident, "not GREEN and inside the healthy band within its deadline")
        elif verdict is Verdict.INCONCLUSIVE:
            self._site.hand_over(incident, "verification stayed inconclusive: silence is not health")

    def _cannot_mend_now(self, incident: Incident) -> bool:
        now = self._site.observer.symptoms(incident.watches)
        return bool(now) and not incident.acting_rung.applies_to(frozenset(now))

    def _ask_condition(self, incident: Incident) -> None:
        rung = incident.acting_rung
        if rung.condition is None:
            self._helped(incident)
            return
        incident.phase = Phase.ASKING
        desk = self._site.desk
        record = desk.record("intent", incident.entry, incident, verb="ask", rung=rung.name, condition=rung.condition)
        desk.ask("ask", incident, record, Target(condition=rung.condition))

    def _answered(self, incident: Incident, outcome: Outcome) -> None:
        condition = incident.acting_rung.condition
        self._site.note_outcome(incident, "ask", outcome)
        if outcome.ok is True:
            self._helped(incident)
        elif outcome.ok is False:
            self._rung_failed(incident, f"the condition {condition!r} does not hold")
        else:
            self._site.hand_over(incident, f"the condition {condition!r} could not be established")

    def _helped(self, incident: Incident) -> None:
        rung = incident.acting_rung
        self._note(incident, rung, "helped", "")
        incident.recovered_after = rung.name
        self._site.open_relapse_watch(incident)

    def _is_back(self, incident: Incident, values: list[float | None]) -> bool:
        """A symptom at RED, or a setting that is no longer in force; a YELLOW only holds the clock."""
        return bool(self._site.observer.symptoms(incident.watches)) or not self._site.in_force(values)

    def _watch(self, incident: Incident, window: Window, values: list[float | None], *, green: bool | None) -> None:
        now, length = self._site.desk.now, self._site.entry(incident).relapse_watch
        assert incident.since is not None
        if green is True:
            window.green += 1
            enough = window.green >= window.confirm if length.unit == "ticks" else window.green > 0
            if enough and length.has_passed(incident.since, now):
                self._ask_to_keep(incident)
                return
        elif length.unit == "seconds":
            incident.since = now  # silence holds the clock
        if window.deadline.has_passed(window.opened, now):
            self._site.hand_over(incident, "the relapse watch stayed inconclusive: silence is not health")

    def _ask_to_keep(self, incident: Incident) -> None:
        """Without committed evidence the verdict is not given."""
        incident.phase, incident.window = Phase.CLOSING, None
        desk = self._site.desk
        record = desk.record(
            "recovered", incident.entry, incident,
            after_rung=incident.recovered_after, ticks=desk.now.tick - incident.opened.tick,
            relapses=incident.relapses,
        )  # fmt: skip
        desk.ask("keep", incident, record)

    def _evidence_kept(self, incident: Incident, outcome: Outcome) -> None:
        if outcome.ok is True:
            self._recovered(incident)
        else:
            self._site.hand_over(incident, f"the evidence of recovery could not be kept: {outcome.detail}")

    def _note(self, incident: Incident, rung: Rung, verdict: str, why: str) -> None:
        self._site.desk.note("verified", incident.entry, incident, rung=rung.name, verdict=verdict, why=why)
