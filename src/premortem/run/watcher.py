"""Reads a guarded arm's records as they come, and sums them up for the drill's rule."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from premortem.core.drill import Arm
from premortem.core.evidence import Record

_RED = ("RED", "CRITICAL")


@dataclass(slots=True)
class Watcher:
    """Listens to a driver. ``fault_at`` is set by the arm when its fault comes."""

    alarms: int = 0
    findings: int = 0
    detected_at: int | None = None
    rungs: list[str] = field(default_factory=list)
    recovered_after: str | None = None
    recovered_at: int | None = None
    ended: str = ""
    fault_at: int | None = None

    def hear(self, record: Record) -> None:
        """One record of the guard's."""
        data = record.data
        if record.event == "finding" and data["level"] in _RED:
            self.alarms += 1
            if self.detected_at is None and self.fault_at is not None:
                self.detected_at = record.tick
        elif record.event == "finding" and data["level"] == "YELLOW":
            self.findings += 1
        elif record.event == "intent" and data.get("verb") == "turn":
            self.rungs.append(str(data["rung"]))
        else:
            self._hear_end(record)

    def arm(self, arm: Arm) -> Arm:
        """The arm with what was heard."""
        since = self.fault_at or 0
        return replace(
            arm, fault_at=self.fault_at, detected_at=self.detected_at, rungs=tuple(self.rungs),
            recovered_after=self.recovered_after, ended=self.ended, findings=self.findings, alarms=self.alarms,
            recovered_in=None if self.recovered_at is None else self.recovered_at - since,
        )  # fmt: skip

    def _hear_end(self, record: Record) -> None:
        data = record.data
        if record.event == "recovered":
            self.recovered_after, self.recovered_at = str(data["after_rung"]), record.tick
        elif record.event == "relapse":
            self.ended = f"relapse: {data['why']}"
        elif record.event in ("closed", "held"):
            self.ended = str(data["verdict"])
        elif record.event == "handed_over":
            self.recovered_after, self.ended = None, f"handed over: {data['why']}"
