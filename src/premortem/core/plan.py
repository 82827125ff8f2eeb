"""A plan is a register bound to one workload: which watches read which slot, which rungs can be climbed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from premortem.core.action import Setting
from premortem.core.clock import Duration, seconds, ticks
from premortem.core.ladder import Rung
from premortem.core.risk import Watch
from premortem.core.signal import Signal


@dataclass(frozen=True, slots=True)
class BoundWatch:
    """A watch of an entry on the slot of its signal in the observation row."""

    entry: str
    risk: str
    watch: Watch
    slot: int


@dataclass(frozen=True, slots=True)
class BoundEntry:
    """An entry as the kernel needs it.

    ``max_incidents`` within ``per`` is law 7: a guard that keeps firing is itself a fault and hands over.
    ``carry_out_all`` makes the rungs steps: every one is carried out in order, recovery is asked at the end.
    """

    id: str
    rungs: tuple[Rung, ...]
    contingency: Rung | None = None
    relapse_watch: Duration = ticks(50)
    max_incidents: int = 10
    per: Duration = ticks(2000)
    carry_out_all: bool = False

    @property
    def all_rungs(self) -> tuple[Rung, ...]:
        """The ladder and, last, the contingency."""
        return (*self.rungs, self.contingency) if self.contingency else self.rungs


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything the engine knows of the world.

    Attributes:
        signals: the observation row, one slot each.
        watches: every detector to run.
        entries: by id.
        bases: each available control's base setting; a rung on any other control is unavailable.
        witnesses: control → signal that shows its effective value independently of ``Control.read``.
        probation: healthy ticks until a candidate checkpoint is good; at least the slowest detector's delay.
        patience: how long a command may stay without an outcome.
        gaps: what could not be watched, in words; reported, never assumed (law 2).
    """

    signals: tuple[Signal, ...]
    watches: tuple[BoundWatch, ...]
    entries: Mapping[str, BoundEntry]
    bases: Mapping[str, Setting]
    witnesses: Mapping[str, str] = field(default_factory=dict)
    probation: int = 30
    patience: Duration = field(default_factory=lambda: seconds(30))
    gaps: tuple[str, ...] = ()

    def slot(self, signal: str) -> int:
        """The slot of a signal; raises ``KeyError`` when the workload does not offer it."""
        for index, offered in enumerate(self.signals):
            if offered.name == signal:
                return index
        raise KeyError(signal)
