"""A finding is a *change* of assessment: nothing is reported twice, and nothing changes in silence."""

from __future__ import annotations

from dataclasses import dataclass

from premortem.core.clock import Now
from premortem.core.detector import Level


@dataclass(frozen=True, slots=True)
class Finding:
    """One watch changed its mind.

    ``symptom`` is what rungs are matched against; ``level`` and ``before`` are ``None`` while inconclusive.
    """

    entry: str
    risk: str
    watch: str
    signal: str
    symptom: str
    level: Level | None
    before: Level | None
    value: float | None
    at: Now

    @property
    def opens_incident(self) -> bool:
        """RED and CRITICAL open incidents; YELLOW is recorded; ``None`` holds."""
        return self.level is not None and self.level >= Level.RED

    @property
    def summary(self) -> str:
        """One line for people."""
        level = "INCONCLUSIVE" if self.level is None else self.level.name
        value = "missing" if self.value is None else f"{self.value:.6g}"
        return f"{level} {self.symptom}: {self.signal} = {value} ({self.watch}, {self.risk})"
