"""Escalation: who must know by when, from the register's levels and deadlines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from premortem.core.clock import Duration, Now
from premortem.core.detector import Level


@dataclass(frozen=True, slots=True)
class EscalationLevel:
    """One level of the register: within how long whom."""

    name: str
    within: Duration
    to: str


@dataclass(frozen=True, slots=True)
class Call:
    """A person to be told by a moment; ``overdue`` once it has passed without acknowledgement."""

    level: EscalationLevel
    since: Now
    about: str

    def is_overdue(self, now: Now) -> bool:
        """Whether the deadline has passed."""
        return self.level.within.has_passed(self.since, now)


_SEVERITY = {Level.GREEN: "low", Level.YELLOW: "medium", Level.RED: "high", Level.CRITICAL: "critical"}


def call_for(levels: Sequence[EscalationLevel], level: Level, since: Now, about: str) -> Call | None:
    """The call that a finding or a hand-over of this level sets off; ``None`` where the register names nobody."""
    wanted = _SEVERITY[level]
    for candidate in levels:
        if candidate.name == wanted:
            return Call(candidate, since, about)
    return None
