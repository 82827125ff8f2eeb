"""Escalation: who must know by when comes from the register, and silence about it is written down."""

from __future__ import annotations

from premortem.core.clock import Now, seconds
from premortem.core.detector import Level
from premortem.core.escalation import EscalationLevel, call_for
from premortem.core.evidence import Record
from premortem.registers.load import load_register
from premortem.run.calls import Calls

LEVELS = (EscalationLevel("critical", seconds(900), "lead"), EscalationLevel("high", seconds(3600), "owner"))


def heard(register: str, level: str) -> list[Record]:
    notes: list[Record] = []
    calls = Calls(load_register(register), notes.append)
    calls.hear(Record("escalated", "E-1", 1, 7, 3.0, {"level": level, "why": "the ladder is spent"}))
    return notes


def test_a_critical_hand_over_calls_within_fifteen_minutes() -> None:
    (record,) = heard("ultrathink", "CRITICAL")
    assert record.data["within"] == "900 s"
    assert record.data["to"]


def test_a_register_that_names_nobody_says_so() -> None:
    (record,) = heard("default", "RED")
    assert "nobody" in str(record.data["to"])


def test_its_own_record_is_not_answered_again() -> None:
    notes: list[Record] = []
    calls = Calls(load_register("ultrathink"), notes.append)
    calls.hear(Record("escalated", "E-1", 1, 7, 3.0, {"level": "RED", "to": "someone"}))
    calls.hear(Record("finding", "E-1", 1, 7, 3.0, {"level": "RED"}))
    assert notes == []


def test_a_call_is_overdue_after_its_deadline_and_not_before() -> None:
    call = call_for(LEVELS, Level.CRITICAL, Now(0, 0.0), "x")
    assert call is not None
    assert not call.is_overdue(Now(5, 899.0))
    assert call.is_overdue(Now(5, 900.0))
    assert call_for(LEVELS, Level.GREEN, Now(0, 0.0), "x") is None
