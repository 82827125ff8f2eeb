"""What the kernel said during a replay, from its own records; bounded, however long the log is."""

from __future__ import annotations

from dataclasses import dataclass, field

from premortem.core.evidence import Record
from premortem.core.plan import Plan

_KEPT = 10_000
_RED = ("RED", "CRITICAL")


@dataclass(slots=True)
class Alarm:
    """One watch turned RED or CRITICAL.

    Attributes:
        step: the log's own step; ``tick`` counts observations.
        until: the step at which it was no longer so; ``None`` where it stayed to the end.
        incident: the number of the incident that it opened, ``None`` where it joined one or met a latch.
        rung: what the ladder would have tried first; nothing was turned, so nothing is claimed of it.
    """

    step: float
    tick: int
    seconds: float
    entry: str
    risk: str
    watch: str
    signal: str
    symptom: str
    level: str
    value: float | None
    until: float | None = None
    incident: int | None = None
    rung: str = ""


@dataclass(slots=True)
class Heard:
    """Listens to the commands of one kernel after the other. ``num_*`` count all, the lists keep the first."""

    alarms: list[Alarm] = field(default_factory=list)
    num_alarms: int = 0
    num_incidents: int = 0
    warnings: dict[str, list[float]] = field(default_factory=dict)
    """YELLOW by watch: how often, and the first and the last step."""
    unwatched: dict[str, str] = field(default_factory=dict)
    """Watch → why nothing was seen of it."""
    faults: list[str] = field(default_factory=list)
    _standing: dict[tuple[str, str, str], Alarm] = field(default_factory=dict)

    def hear(self, record: Record, step: float, plan: Plan) -> None:
        """One record of the kernel's, of the observation at this step."""
        data = record.data
        if record.event == "finding":
            self._finding(record, step, plan)
        elif record.event == "opened":
            self.num_incidents += 1
            for alarm in self._standing.values():
                if alarm.tick == record.tick and alarm.entry == record.entry and alarm.incident is None:
                    alarm.incident = self.num_incidents
                    break
        elif record.event == "unwatched":
            self.unwatched.setdefault(str(data["what"]), str(data.get("signal", "")))
        elif record.event == "guard_fault" and len(self.faults) < _KEPT:
            self.faults.append(str(data["what"]))

    def begin_anew(self) -> None:
        """The run begins anew: what stood belongs to the run before."""
        self._standing.clear()

    def _finding(self, record: Record, step: float, plan: Plan) -> None:
        data = record.data
        level, key = data["level"], (record.entry, str(data["risk"]), str(data["watch"]))
        if level in _RED:
            value = data["value"]
            alarm = Alarm(
                step, record.tick, record.seconds, *key, str(data["signal"]), str(data["symptom"]), str(level),
                float(value) if isinstance(value, int | float) else None,
            )  # fmt: skip
            alarm.rung = first_rung(plan, alarm)
            self._end(key, step)
            self.num_alarms += 1
            self._standing[key] = alarm
            if len(self.alarms) < _KEPT:
                self.alarms.append(alarm)
            return
        self._end(key, step)
        if level == "YELLOW":
            seen = self.warnings.setdefault(f"{key[0]}: {key[2]}", [0.0, step, step])
            seen[0] += 1.0
            seen[2] = step

    def _end(self, key: tuple[str, str, str], step: float) -> None:
        alarm = self._standing.pop(key, None)
        if alarm is not None:
            alarm.until = step


def first_rung(plan: Plan, alarm: Alarm) -> str:
    """The first rung of the entry's ladder that may mend the symptom, were its control at hand."""
    entry = plan.entries[alarm.entry]
    fits = (rung.name for rung in entry.all_rungs if rung.applies_to(frozenset({alarm.symptom})))
    return next(fits, "hand over to a person")
