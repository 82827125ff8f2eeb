"""Evidence: what happened, in the order in which it happened, as plain data.

The ledger adds a sequence number, wall time and the hash chain; the kernel only says what to write.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Plain = str | int | float | bool | None | list["Plain"] | dict[str, "Plain"]

Event = Literal[
    "run",  # a run began, resumed or ended
    "finding",
    "opened",  # an incident opened
    "intent",  # a command is about to be carried out; committed before it is
    "outcome",
    "verified",  # a verification window closed
    "relapse",
    "recovered",
    "held",
    "handed_over",
    "closed",
    "queued",
    "escalated",
    "good",  # a checkpoint earned its mark
    "acknowledged",
    "rebaselined",
    "guard_fault",  # the guard itself misbehaved
    "unwatched",  # what could not be watched (law 2)
    "fault",  # a drill's fault began, was observed, was gone
    "proof",
    "gate",
]


@dataclass(frozen=True, slots=True)
class Record:
    """One row of evidence. ``data`` is plain JSON."""

    event: Event
    entry: str
    incident: int | None
    tick: int
    seconds: float
    data: dict[str, Plain] = field(default_factory=dict)
