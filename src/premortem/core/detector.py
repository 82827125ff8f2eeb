"""What a detector is: it reads one signal, an observation at a time, and assesses it.

A detector holds plain numbers only, costs O(1) an observation, and never lets a value that it
flagged enter its own statistics (law 5). ``None`` means INCONCLUSIVE: too few samples, or missing data.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Protocol, runtime_checkable

State = dict[str, float]


class Level(IntEnum):
    """An assessment. YELLOW is recorded; RED and CRITICAL open incidents."""

    GREEN = 0
    YELLOW = 1
    RED = 2
    CRITICAL = 3


class Detector(Protocol):
    """Reads one stream. Implementations are small final classes with ``__slots__`` and plain-number state."""

    def observe(self, value: float) -> Level | None:
        """Take one observation and assess it; ``None`` while inconclusive.

        ``value`` may be NaN or infinite; a detector says RED/CRITICAL, or ``None`` where that is another's job,
        and must not absorb it into its statistics.
        """
        ...

    def state(self) -> State:
        """Everything needed to resume, as plain numbers (NaN allowed)."""
        ...

    def load(self, state: State) -> None:
        """Resume from :meth:`state`; raises ``KeyError`` when a number is missing."""
        ...


@runtime_checkable
class Foresees(Protocol):
    """A detector that tells how soon a limit is reached: verification must not outlast that."""

    def left(self) -> float:
        """Observations until then at the present pace; infinite where no limit is in sight."""
        ...


@runtime_checkable
class HearsSilence(Protocol):
    """A detector for which missing data is itself an observation (kernel decision 6)."""

    def missing(self, seconds: float) -> Level | None:
        """Assess so many seconds of silence."""
        ...
