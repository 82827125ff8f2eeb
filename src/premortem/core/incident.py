"""An incident runs from the first finding to verified recovery, or to the hand-over to a person."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from premortem.core.clock import Now
from premortem.core.detector import Level
from premortem.core.evidence import Plain
from premortem.core.ladder import Rung
from premortem.core.verification import Window


class Phase(Enum):
    """Where an incident stands. The first group waits for an outcome, the second for observations."""

    ACTING = "acting"
    READING = "reading"
    ASKING = "asking"  # one more condition
    UNDOING = "undoing"  # an alternative, before the next rung
    UNREADING = "unreading"
    PEELING = "peeling"  # after recovery, in reverse order
    PEEL_READING = "peel reading"
    RESTORING = "restoring"  # a peel relapsed: put back
    RESTORE_READING = "restore reading"
    CONFIRMING = "confirming"  # every setting that the verdict rests on is read once more
    CLOSING = "closing"  # evidence of the verdict must be kept

    AWAITING = "awaiting evidence"  # a request to a person
    VERIFYING = "verifying"
    RELAPSE_WATCH = "relapse watch"
    PEEL_WAITING = "waiting for its cause to go"  # recovered, and a rung stands while the cause is still seen
    PEEL_VERIFYING = "peel verifying"
    RESTORE_VERIFYING = "restore verifying"

    QUEUED = "queued"
    RECOVERED = "recovered"
    HELD = "recovered (held)"
    HANDED_OVER = "handed over"

    @property
    def is_over(self) -> bool:
        """Whether a verdict stands."""
        return self in (Phase.RECOVERED, Phase.HELD, Phase.HANDED_OVER)


@dataclass(slots=True)
class Standing:
    """A rung in force."""

    rung: Rung
    since: Now


@dataclass(slots=True)
class Incident:
    """The live state of one incident; :meth:`state` is all that a restart needs (law 11)."""

    number: int
    entry: str
    opened: Now
    level: Level
    symptoms: set[str] = field(default_factory=set)
    watches: set[int] = field(default_factory=set)
    tried: dict[str, int] = field(default_factory=dict)
    standing: list[Standing] = field(default_factory=list)
    current: Rung | None = None
    phase: Phase = Phase.QUEUED
    window: Window | None = None
    since: Now | None = None
    relapses: int = 0
    recovered_after: str | None = None
    reason: str = ""
    hold_peel: bool = False
    verdict: Phase | None = None
    """What is being sealed: ``None`` is a recovery that has still to be peeled."""
    to_read: list[str] = field(default_factory=list)
    to_ask: list[str] = field(default_factory=list)
    carried: list[str] = field(default_factory=list)
    """Steps that were carried out, where an entry's rungs are steps."""
    missed: list[str] = field(default_factory=list)
    judged: bool = False

    @property
    def label(self) -> str:
        """How people call it."""
        return f"#{self.number} {self.entry}"

    @property
    def acting_rung(self) -> Rung:
        """The rung that is being turned, verified or undone."""
        assert self.current is not None, f"{self.label} is in {self.phase} without a rung"
        return self.current

    @property
    def standing_names(self) -> list[Plain]:
        """Names of the rungs in force, oldest first."""
        return [s.rung.name for s in self.standing]

    def state(self) -> dict[str, Plain]:
        """Plain data; a window in flight is opened anew on resume."""
        return {
            "number": self.number,
            "entry": self.entry,
            "opened": [self.opened.tick, self.opened.seconds],
            "level": int(self.level),
            "symptoms": [*sorted(self.symptoms)],
            "tried": dict(self.tried),
            "standing": self.standing_names,
            "current": None if self.current is None else self.current.name,
            "phase": self.phase.value,
            "relapses": self.relapses,
            "since": None if self.since is None else [self.since.tick, self.since.seconds],
            "recovered_after": self.recovered_after,
            "reason": self.reason,
            "hold_peel": self.hold_peel,
            "verdict": None if self.verdict is None else self.verdict.value,
            "to_ask": [*self.to_ask],
            "carried": [*self.carried],
            "missed": [*self.missed],
            "judged": self.judged,
        }
