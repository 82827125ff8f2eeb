"""Says who must know by when: each escalation of the kernel, answered by the register's levels."""

from __future__ import annotations

from collections.abc import Callable

from premortem.core.clock import Duration, Now
from premortem.core.detector import Level
from premortem.core.escalation import EscalationLevel, call_for
from premortem.core.evidence import Record
from premortem.registers.schema import RegisterFile


class Calls:
    """Listens to a driver and writes one more record for each escalation: to whom, within what time.

    It calls nobody: the record is what a pager, a chat or a person reads. A register without levels calls no one,
    and the record says so.
    """

    def __init__(self, register: RegisterFile, note: Callable[[Record], None]) -> None:
        self._levels = tuple(
            EscalationLevel(e.level, Duration.parse(e.within, f"escalation[{i}].within"), e.to)
            for i, e in enumerate(register.escalation)
        )
        self._note = note

    def hear(self, record: Record) -> None:
        """One record of the guard's."""
        level = record.data.get("level")
        if record.event != "escalated" or "to" in record.data or not isinstance(level, str):
            return
        since = Now(record.tick, record.seconds)
        call = call_for(self._levels, Level[level], since, str(record.data.get("why", "")))
        data = dict(record.data)
        data["to"] = "nobody: the register names no one for this level" if call is None else call.level.to
        data["within"] = None if call is None else str(call.level.within)
        self._note(Record("escalated", record.entry, record.incident, record.tick, record.seconds, data))
