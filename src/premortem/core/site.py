"""What climbing and peeling share: the expected settings, the windows, and the steps that both take."""

from __future__ import annotations

import math

from premortem.core.action import Outcome, Override, OverrideStack, Owner, Setting, same_setting
from premortem.core.baseline import Baseline
from premortem.core.clock import Duration, ticks
from premortem.core.command import Target
from premortem.core.desk import Desk
from premortem.core.detector import Level
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
        self.has_ended = False
        """A rung that ends the run is in force: nothing is turned any more."""
        self._witnesses = [(c, plan.slot(s)) for c, s in plan.witnesses.items() if c in self.stacks]

    def entry(self, incident: Incident) -> BoundEntry:
        """The entry that the incident belongs to."""
        return self.plan.entries[incident.entry]

    def why_unfit(self, rung: Rung) -> str:
        """Why the override cannot help on its control as it stands: it does not fit, or changes nothing."""
        effective = self.stacks[rung.control].effective
        if rung.override.kind == "choose":
            return ""  # a request always does something
        try:
            changed = rung.override.over(effective)
        except TypeError as error:
            return f"it does not fit: {error}"
        return "it would change nothing: the setting is there already" if same_setting(changed, effective) else ""

    def turn(self, incident: Incident, rung: Rung, phase: Phase, why: str = "") -> None:
        """Expect the rung's override, write the intent, ask for it."""
        incident.current, incident.phase, incident.since = rung, phase, self.desk.now
        tried = incident.tried.get(rung.name, 1)
        owner = Owner(incident.number, rung.name)
        override = numbered(incident, rung, tried)
        expected = self.stacks[rung.control].put(owner, override)
        record = self.desk.record(
            "intent", incident.entry, incident,
            verb="turn", rung=rung.name, control=rung.control, kind=override.kind, by=override.by,
            attempt=tried, expected=expected, why=why,
        )  # fmt: skip
        self.desk.ask("turn", incident.number, record, Target(rung.control, owner, override))

    def undo(self, incident: Incident, rung: Rung, phase: Phase) -> None:
        """Expect the setting without the rung's override, write the intent, ask for it."""
        incident.current, incident.phase = rung, phase
        owner = Owner(incident.number, rung.name)
        expected = self.stacks[rung.control].remove(owner)
        record = self.desk.record(
            "intent", incident.entry, incident,
            verb="undo", rung=rung.name, control=rung.control, expected=expected,
        )  # fmt: skip
        self.desk.ask("undo", incident.number, record, Target(rung.control, owner))

    def read(self, incident: Incident, phase: Phase, control: str = "") -> None:
        """Ask for the effective value of a control, by default the current rung's."""
        incident.phase = phase
        name = control or incident.acting_rung.control
        record = self.desk.record("intent", incident.entry, incident, verb="read", control=name)
        self.desk.ask("read", incident.number, record, Target(name))

    def note_outcome(self, incident: Incident, verb: str, outcome: Outcome, **more: Setting | bool) -> None:
        """Keep what came of a command."""
        rung = "" if incident.current is None else incident.current.name
        self.desk.note(
            "outcome", incident.entry, incident,
            verb=verb, rung=rung, ok=outcome.ok, value=outcome.value, detail=outcome.detail, **more,
        )  # fmt: skip

    def fits(self, control: str, outcome: Outcome) -> bool:
        """Whether a read-back shows exactly what the kernel expects there."""
        return outcome.ok is True and same_setting(outcome.value, self.stacks[control].effective)

    def matches(self, incident: Incident, outcome: Outcome, control: str = "") -> bool:
        """Whether a read-back shows what is expected, by default on the current rung's control; noted."""
        name = control or incident.acting_rung.control
        fits = self.fits(name, outcome)
        expected = self.stacks[name].effective
        self.note_outcome(incident, "read", outcome, control=name, expected=expected, as_expected=fits)
        return fits

    def is_cause_gone(self, incident: Incident, rung: Rung) -> bool:
        """Whether the watch that a rung names sees its cause no more; silence holds (law 2)."""
        if rung.peel_after is None:
            return True
        bound = enumerate(self.observer.watches)
        named = [i for i, w in bound if (w.entry, w.watch.name) == (incident.entry, rung.peel_after)]
        return all(self.observer.levels[i] is Level.GREEN for i in named)

    def touched(self, incident: Incident) -> list[str]:
        """Controls of settings that this incident tried; one-shot requests leave nothing to read later."""
        rungs = self.entry(incident).all_rungs
        return list(dict.fromkeys(r.control for r in rungs if r.name in incident.tried and not r.is_one_shot))

    def lost_control(self, incident: Incident, values: list[float | None]) -> str:
        """The control whose witness signal shows another setting than expected; empty where none does."""
        mine = self.touched(incident)
        for control, slot in self._witnesses:
            seen = values[slot]
            if control in mine and seen is not None and not same_setting(seen, self.stacks[control].effective):
                return control
        return ""

    def is_witnessed(self, incident: Incident, values: list[float | None]) -> bool:
        """Whether no witness of a rung in force is silent: the second, independent read-back."""
        standing = {s.rung.control for s in incident.standing}
        return not any(control in standing and values[slot] is None for control, slot in self._witnesses)

    def is_warming_up(self, incident: Incident, values: list[float | None]) -> bool:
        """Whether all that is inconclusive of the incident are detectors that get values and say nothing yet."""
        watches = self.observer.watches
        silent = [watches[i].slot for i in incident.watches if self.observer.levels[i] is None]
        sound = all(i not in self.observer.faults for i in incident.watches)
        present = all(values[slot] is not None and values[slot] == values[slot] for slot in silent)
        return bool(silent) and sound and present and self.is_witnessed(incident, values)

    def start_again_if_time_went_back(self, incident: Incident) -> None:
        """A resumed run may count its ticks from an older checkpoint: what was begun later begins now."""
        now, window = self.desk.now, incident.window
        if incident.since is not None and incident.since.tick > now.tick:
            incident.since = now
        if window is not None and window.opened.tick > now.tick:
            window.opened = now
            window.settled = None

    def open_window(self, incident: Incident, phase: Phase) -> None:
        """Begin to verify the current rung. Where nothing healthy was ever seen, for a whole probation.

        A peel is verified for a probation too, which outlasts the slowest detector's delay, but no longer than the
        entry's relapse watch: what comes back without the rung must have had time to show.
        """
        rung = incident.acting_rung
        confirm, deadline = rung.confirm, rung.deadline
        least = self.plan.probation if self.baseline.is_unknown else 0
        if phase is Phase.PEEL_VERIFYING:
            watch = self.entry(incident).relapse_watch
            least = max(least, int(min(self.plan.probation, watch.amount if watch.unit == "ticks" else math.inf)))
        if confirm < least:
            deadline = deadline.times(1 + least / max(1, confirm))
            confirm = least
        if phase is Phase.RESTORE_VERIFYING:
            deadline = deadline.times(2)  # it helped before: detectors that just saw the relapse may take to clear
        incident.phase = phase
        incident.window = Window(self.desk.now, rung.settle, confirm, deadline)

    def is_in_band(self, incident: Incident, window: Window, least: int = 0) -> bool:
        """Whether the run of GREEN observations is inside the healthy band frozen at the last good mark.

        Where nothing healthy was ever seen, only a full probation can show health. ``least`` bounds the number
        of observations that the band's width is reckoned with, from above.
        """
        if self.baseline.is_unknown:
            return window.green >= self.plan.probation
        return self.baseline.holds(window.means(), min(window.green, least) if least else window.green)

    def relapse_length(self, incident: Incident) -> Duration:
        """How long the symptom must stay away; where nothing healthy was ever seen, a probation at least."""
        length = self.entry(incident).relapse_watch
        if self.baseline.is_unknown and length.unit == "ticks":
            return ticks(max(int(length.amount), self.plan.probation))
        return length

    def stand(self, incident: Incident, rung: Rung) -> None:
        """Note that the rung is in force, newest last; a one-shot request was done and leaves nothing standing."""
        self.fall(incident, rung)
        if rung.is_one_shot:
            self.stacks[rung.control].remove(Owner(incident.number, rung.name))
        else:
            incident.standing.append(Standing(rung, self.desk.now))

    def fall(self, incident: Incident, rung: Rung) -> None:
        """Note that the rung is no longer in force."""
        incident.standing = [s for s in incident.standing if s.rung.name != rung.name]

    def forget(self, incident: Incident, rung: Rung) -> None:
        """An irreversible rung that is not in force: nothing can be undone, nothing is expected of it."""
        self.fall(incident, rung)
        self.stacks[rung.control].remove(Owner(incident.number, rung.name))

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


def numbered(incident: Incident, rung: Rung, tried: int) -> Override:
    """The n-th try scales n times; a one-shot request carries its number, so no old reading can pass for it."""
    given = rung.override
    if given.kind == "scale" and not isinstance(given.by, str):
        return Override("scale", given.by**tried)
    if rung.relation is Relation.IRREVERSIBLE and isinstance(given.by, str):
        return Override("choose", f"{given.by} #{incident.number}.{tried}")
    return given
