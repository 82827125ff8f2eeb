"""The climb: how one incident moves from rung to rung, to a rung that helped or a hand-over.

One transition a method, each ending in a phase that waits for an outcome or for observations. The laws it
keeps: a verdict only from verification (1), silence holds (2), rungs say when they apply and alternatives are
undone (3), tries are capped (9). Where a limit is foreseen, a rung may use half of the observations that are left:
what is above it must have its turn before the limit does (kernel decision 19).
"""

from __future__ import annotations

from collections.abc import Callable

from premortem.core.action import Outcome
from premortem.core.command import Target
from premortem.core.incident import Incident, Phase
from premortem.core.ladder import Relation, Rung
from premortem.core.site import Site
from premortem.core.verification import Verdict


class Climb:
    """The way up.

    Args:
        site: the workload as expected.
        yields: asks the engine, between rungs, whether something worse comes first.
        verified: a rung helped: the relapse watch begins.
    """

    def __init__(self, site: Site, yields: Callable[[Incident], bool], verified: Callable[[Incident], None]) -> None:
        self._site = site
        self._yields = yields
        self._verified = verified

    def start(self, incident: Incident) -> None:
        """Choose the first rung that applies, is available and has tries left; undo an alternative before it."""
        if self._yields(incident):
            return
        entry = self._site.entry(incident)
        leftover = [s.rung for s in incident.standing if s.rung.relation is Relation.ALTERNATIVE]
        if leftover and not entry.carry_out_all:
            self._site.undo(incident, leftover[-1], Phase.UNDOING)
            return
        for rung in entry.rungs:
            if rung.name in incident.carried:
                continue
            why_not = self._why_not(incident, rung)
            if why_not is None:
                incident.tried[rung.name] = incident.tried.get(rung.name, 0) + 1
                self._site.turn(incident, rung, Phase.ACTING)
                return
            if rung.name not in incident.tried:
                self._note(incident, rung, "passed over", why_not)
        self._at_the_top(incident)

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

    def observe(self, incident: Incident, values: list[float | None], *, green: bool | None) -> None:
        """One observation while a rung is being verified, or while a person's evidence is awaited."""
        if incident.phase is Phase.AWAITING:
            self._site.read(incident, Phase.READING)
            return
        window = incident.window
        assert window is not None
        lost = self._site.lost_control(incident, values) if window.settled is not None else ""
        if lost:
            self._note(incident, incident.acting_rung, "failed", f"the witness of {lost!r} shows another setting")
            self._undo_on(incident, lost)
            return
        if green is False and window.settled is not None and self._cannot_mend_now(incident):
            self._rung_failed(incident, "a symptom came that it cannot mend")
            return
        left = self._site.observer.left(incident.watches)
        if window.has_used_its_half(left) and self._contingency(incident) is not None:
            self._rung_failed(incident, f"{left:.0f} observations are left to the limit: they are for what is above it")
            return
        verdict = window.take(self._site.desk.now, green=green, values=self._site.baseline.banded(values))
        if verdict is Verdict.GREEN:
            if self._site.is_in_band(incident, window):
                self._begin_asking(incident)
            else:
                window.restart()
        elif verdict is Verdict.FAILED:
            self._rung_failed(incident, "not GREEN and inside the healthy band within its deadline")
        elif verdict is Verdict.INCONCLUSIVE:
            self._site.hand_over(incident, "verification stayed inconclusive: silence is not health")

    def relapsed(self, incident: Incident, why: str) -> None:
        """What was thought mended is back: climb on."""
        self._relapse(incident, why)
        self.start(incident)

    def lost(self, incident: Incident, control: str) -> None:
        """A setting that the recovery rests on is no longer in force: its rung is undone, and the climb goes on."""
        self._relapse(incident, f"the setting of {control!r} is no longer in force")
        self._undo_on(incident, control)

    def _undo_on(self, incident: Incident, control: str) -> None:
        """Whatever was thought in force there is not: its newest rung is undone, and the climb goes on."""
        incident.window = None
        self._site.refresh_symptoms(incident)
        stood = [s.rung for s in incident.standing if s.rung.control == control]
        if not stood:
            self._site.hand_over(incident, f"{control!r} is not as expected: its setting is unknown")
        elif stood[-1].is_one_shot:
            self._site.forget(incident, stood[-1])
            self.start(incident)
        else:
            self._site.undo(incident, stood[-1], Phase.UNDOING)

    def _relapse(self, incident: Incident, why: str) -> None:
        incident.relapses += 1
        rung = "" if incident.current is None else incident.current.name
        self._site.desk.note("relapse", incident.entry, incident, rung=rung, why=why)
        incident.recovered_after, incident.window, incident.verdict = None, None, None
        incident.hold_peel = False
        self._site.refresh_symptoms(incident)

    # --- rungs -------------------------------------------------------------------------------

    def _why_not(self, incident: Incident, rung: Rung) -> str | None:
        if rung.control not in self._site.stacks:
            return f"the workload has no control {rung.control!r}"
        if not rung.applies_to(frozenset(incident.symptoms)):
            return "it cannot mend " + ", ".join(sorted(incident.symptoms - rung.mends))
        if incident.tried.get(rung.name, 0) >= rung.tries:
            return "its tries are spent"
        return self._site.why_unfit(rung) or self._why_too_late(incident, rung)

    def _why_too_late(self, incident: Incident, rung: Rung) -> str | None:
        """A rung whose first fresh observation comes after its half is up is none."""
        left = self._site.observer.left(incident.watches)
        least = 1.0 + (rung.settle.amount if rung.settle.unit == "ticks" else 0.0)
        if left / 2.0 >= least or self._contingency(incident) is None:
            return None
        return f"too late for it: {left:.0f} observations are left to the limit"

    def _at_the_top(self, incident: Incident) -> None:
        """Steps are judged once all are carried out; a ladder is spent."""
        if incident.carried and not incident.judged:
            incident.judged = True
            last = incident.carried[-1]
            incident.current = next(r for r in self._site.entry(incident).rungs if r.name == last)
            self._site.open_window(incident, Phase.VERIFYING)
        else:
            self._spent(incident)

    def _spent(self, incident: Incident) -> None:
        last = self._contingency(incident)
        if last is None:
            self._site.hand_over(incident, "the ladder is spent")
            return
        incident.tried[last.name] = 1
        self._site.turn(incident, last, Phase.ACTING, why="the ladder is spent")

    def _contingency(self, incident: Incident) -> Rung | None:
        """What is left when the ladder is spent; ``None`` where that was done, cannot be, or would not help."""
        last = self._site.entry(incident).contingency
        if last is None or last.name in incident.tried or last.control not in self._site.stacks:
            return None
        return last if last.applies_to(frozenset(incident.symptoms)) else None

    def _read_back(self, incident: Incident, outcome: Outcome) -> None:
        rung = incident.acting_rung
        if rung.due is not None and not self._site.fits(rung.control, outcome) and not self._is_overdue(incident):
            incident.phase = Phase.AWAITING
            return
        fits = self._site.matches(incident, outcome)
        if rung.ends_run:
            self._site.stand(incident, rung)
            told = "" if fits else ", and its setting was not read back"
            self._site.has_ended |= fits
            self._site.hand_over(incident, f"the ladder is spent: {rung.name}{told}")
        elif not fits:
            self._not_in_force(incident, rung)
        elif self._is_step(incident, rung):
            self._site.stand(incident, rung)
            incident.carried.append(rung.name)
            self.start(incident)
        else:
            self._site.stand(incident, rung)
            self._site.open_window(incident, Phase.VERIFYING)

    def _is_overdue(self, incident: Incident) -> bool:
        rung, since = incident.acting_rung, incident.since
        assert rung.due is not None
        assert since is not None
        return rung.due.has_passed(since, self._site.desk.now)

    def _is_step(self, incident: Incident, rung: Rung) -> bool:
        entry = self._site.entry(incident)
        return entry.carry_out_all and rung in entry.rungs

    def _not_in_force(self, incident: Incident, rung: Rung) -> None:
        """A rung whose setting is not there is undone, whatever it left behind, and the climb goes on."""
        late = rung.due is not None
        self._note(incident, rung, "failed", "no evidence by its due date" if late else "its setting is not in force")
        if self._is_step(incident, rung) and incident.tried[rung.name] >= rung.tries:
            incident.missed.append(rung.name)
        self._site.refresh_symptoms(incident)
        if rung.is_one_shot:
            self._site.forget(incident, rung)
            self.start(incident)
        else:
            self._site.undo(incident, rung, Phase.UNDOING)

    def _rung_failed(self, incident: Incident, why: str) -> None:
        """Verified, and it did not help: a cumulative rung stays, an alternative is undone, a restore is taken back."""
        rung = incident.acting_rung
        self._note(incident, rung, "failed", why)
        incident.window = None
        self._site.refresh_symptoms(incident)
        if rung.taken_back:
            self._site.undo(incident, rung, Phase.UNDOING)
        else:
            self.start(incident)

    def _unread(self, incident: Incident, outcome: Outcome) -> None:
        if self._site.matches(incident, outcome):
            self._site.fall(incident, incident.acting_rung)
            self.start(incident)
        else:
            self._site.hand_over(incident, f"{incident.acting_rung.name!r} could not be undone: its setting is unknown")

    # --- what counts as helped beyond the window ---------------------------------------------

    def _cannot_mend_now(self, incident: Incident) -> bool:
        now = self._site.observer.symptoms(incident.watches)
        return bool(now) and not incident.acting_rung.applies_to(frozenset(now))

    def _begin_asking(self, incident: Incident) -> None:
        rung = incident.acting_rung
        rungs = [r for r in self._site.entry(incident).rungs if r.name in incident.carried]
        asked = [r.condition for r in (*rungs, rung) if r.condition is not None]
        incident.to_ask = list(dict.fromkeys(asked))
        self.ask(incident)

    def ask(self, incident: Incident) -> None:
        """Ask the next condition; where none is left the rung has helped."""
        if not incident.to_ask:
            self._helped(incident)
            return
        incident.phase, incident.window = Phase.ASKING, None
        desk, rung, asked = self._site.desk, incident.acting_rung, incident.to_ask[0]
        record = desk.record("intent", incident.entry, incident, verb="ask", rung=rung.name, condition=asked)
        desk.ask("ask", incident.number, record, Target(condition=asked))

    def _answered(self, incident: Incident, outcome: Outcome) -> None:
        condition = incident.to_ask.pop(0)
        self._site.note_outcome(incident, "ask", outcome)
        if outcome.ok is True:
            self.ask(incident)
        elif outcome.ok is False:
            self._rung_failed(incident, f"the condition {condition!r} does not hold")
        else:
            self._site.hand_over(incident, f"the condition {condition!r} could not be established")

    def _helped(self, incident: Incident) -> None:
        rung = incident.acting_rung
        self._note(incident, rung, "helped", "")
        if incident.missed:
            self._site.hand_over(incident, "steps that could not be carried out: " + ", ".join(incident.missed))
            return
        incident.recovered_after = rung.name
        self._verified(incident)

    def _note(self, incident: Incident, rung: Rung, verdict: str, why: str) -> None:
        self._site.desk.note("verified", incident.entry, incident, rung=rung.name, verdict=verdict, why=why)
