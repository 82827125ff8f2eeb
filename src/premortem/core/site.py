"""What climbing and peeling share: the expected settings, the windows, and the steps that both take."""

from __future__ import annotations

from premortem.core.action import Outcome, Override, OverrideStack, Owner, Setting, same_setting
from premortem.core.baseline import Baseline
from premortem.core.clock import ticks
from premortem.core.command import Target
from premortem.core.desk import Desk
from premortem.core.incident import Incident, Phase, Standing
from premortem.core.ladder import Relation, Rung
from premortem.core.observer import Observer
from premortem.core.plan import BoundEntry, Plan
from premortem.core.verification import Window


class Site:
    """One workload as the kernel expects it to be."""

    def __init__(self, plan: Plan, observer: Observer, baseline: Baseline, desk: Desk) -> None:
        self.plan = plan
        self.observer = observer
        self.baseline = baseline
        self.desk = desk
        self.stacks = {name: OverrideStack(base) for name, base in plan.bases.items()}
        self._witnesses = [(c, plan.slot(s)) for c, s in plan.witnesses.items() if c in self.stacks]

    def entry(self, incident: Incident) -> BoundEntry:
        """The entry that the incident belongs to."""
        return self.plan.entries[incident.entry]

    def would_change_nothing(self, rung: Rung) -> bool:
        """Whether a factor or a bound leaves the effective setting as it is; a request always does something."""
        if rung.override.kind == "choose":
            return False
        effective = self.stacks[rung.control].effective
        return same_setting(rung.override.over(effective), effective)

    def turn(self, incident: Incident, rung: Rung, phase: Phase, why: str = "") -> None:
        """Expect the rung's override, write the intent, ask for it."""
        incident.current, incident.phase = rung, phase
        tried = incident.tried.get(rung.name, 1)
        owner = Owner(incident.number, rung.name)
        override = numbered(incident, rung, tried)
        expected = self.stacks[rung.control].put(owner, override)
        record = self.desk.record(
            "intent", incident.entry, incident,
            verb="turn", rung=rung.name, control=rung.control, kind=override.kind, by=override.by,
            attempt=tried, expected=expected, why=why,
        )  # fmt: skip
        self.desk.ask("turn", incident, record, Target(rung.control, owner, override))

    def undo(self, incident: Incident, rung: Rung, phase: Phase) -> None:
        """Expect the setting without the rung's override, write the intent, ask for it."""
        incident.current, incident.phase = rung, phase
        owner = Owner(incident.number, rung.name)
        expected = self.stacks[rung.control].remove(owner)
        record = self.desk.record(
            "intent", incident.entry, incident,
            verb="undo", rung=rung.name, control=rung.control, expected=expected,
        )  # fmt: skip
        self.desk.ask("undo", incident, record, Target(rung.control, owner))

    def read(self, incident: Incident, phase: Phase) -> None:
        """Ask for the effective value of the current rung's control."""
        rung = incident.acting_rung
        incident.phase = phase
        record = self.desk.record("intent", incident.entry, incident, verb="read", rung=rung.name, control=rung.control)
        self.desk.ask("read", incident, record, Target(rung.control))

    def note_outcome(self, incident: Incident, verb: str, outcome: Outcome, **more: Setting | bool) -> None:
        """Keep what came of a command."""
        self.desk.note(
            "outcome", incident.entry, incident,
            verb=verb, rung=incident.acting_rung.name, ok=outcome.ok, value=outcome.value,
            detail=outcome.detail, **more,
        )  # fmt: skip

    def matches(self, incident: Incident, outcome: Outcome) -> bool:
        """Whether a read-back shows exactly what the kernel expects on the current rung's control."""
        expected = self.stacks[incident.acting_rung.control].effective
        fits = outcome.ok is True and same_setting(outcome.value, expected)
        self.note_outcome(incident, "read", outcome, expected=expected, as_expected=fits)
        return fits

    def in_force(self, values: list[float | None]) -> bool:
        """Whether every witness signal shows the expected setting: the second, independent read-back."""
        for control, slot in self._witnesses:
            seen = values[slot]
            if seen is not None and not same_setting(seen, self.stacks[control].effective):
                return False
        return True

    def open_window(self, incident: Incident, phase: Phase) -> None:
        """Begin to verify the current rung."""
        rung = incident.acting_rung
        incident.phase = phase
        incident.window = Window(self.desk.now, rung.settle, rung.confirm, rung.deadline)

    def open_relapse_watch(self, incident: Incident) -> None:
        """Begin to watch whether the symptom stays away; silence holds its clock, four times over."""
        length = self.entry(incident).relapse_watch
        incident.phase = Phase.RELAPSE_WATCH
        incident.since = self.desk.now
        incident.window = Window(self.desk.now, ticks(0), max(1, int(length.amount)), length.times(4))

    def is_in_band(self, incident: Incident, window: Window) -> bool:
        """Whether the run of GREEN observations is inside the healthy band frozen at the last good mark.

        Where nothing healthy was ever seen, only a full probation can show health.
        """
        if not self.baseline.bands:
            if window.green >= self.plan.probation:
                return True
            window.confirm = self.plan.probation
            return False
        if self.baseline.holds(window.means(), window.green):
            return True
        window.restart()
        return False

    def stand(self, incident: Incident, rung: Rung) -> None:
        """Note that the rung is in force, newest last."""
        self.fall(incident, rung)
        incident.standing.append(Standing(rung, self.desk.now))

    def fall(self, incident: Incident, rung: Rung) -> None:
        """Note that the rung is no longer in force."""
        incident.standing = [s for s in incident.standing if s.rung is not rung]

    def refresh_symptoms(self, incident: Incident) -> None:
        """What is RED now is what the next rung must mend; where all is quiet, what was seen last."""
        now = self.observer.symptoms(incident.watches)
        if now:
            incident.symptoms = now

    def hand_over(self, incident: Incident, reason: str) -> None:
        """A person must act: the incident is latched, its rungs stay as they are."""
        incident.phase, incident.window, incident.reason = Phase.HANDED_OVER, None, reason
        self.desk.note("handed_over", incident.entry, incident, why=reason, standing=incident.standing_names)
        self.desk.note("escalated", incident.entry, incident, level=incident.level.name, why=reason)

    def close(self, incident: Incident, phase: Phase) -> None:
        """Give the verdict, whose evidence is kept already."""
        incident.phase, incident.window = phase, None
        self.desk.note(
            "held" if phase is Phase.HELD else "closed", incident.entry, incident,
            verdict=phase.value, after_rung=incident.recovered_after or "", standing=incident.standing_names,
        )  # fmt: skip


def numbered(incident: Incident, rung: Rung, tried: int) -> Override:
    """The n-th try scales n times; a one-shot request carries its number, so no old reading can pass for it."""
    given = rung.override
    if given.kind == "scale" and not isinstance(given.by, str):
        return Override("scale", given.by**tried)
    if rung.relation is Relation.IRREVERSIBLE and isinstance(given.by, str):
        return Override("choose", f"{given.by} #{incident.number}.{tried}")
    return given
