"""What cannot be watched is reported, once: silence is never health (law 2)."""

from __future__ import annotations

from premortem.core.clock import Now
from premortem.core.detector import Level
from premortem.core.observer import Observer
from premortem.core.plan import Plan


class Vigil:
    """Looks for watches whose signal stays missing, and says whether the workload is healthy."""

    def __init__(self, plan: Plan, observer: Observer) -> None:
        self._observer = observer
        self._patience = plan.probation
        self._slots = [w.slot for w in plan.watches]
        self._required = [i for i, w in enumerate(plan.watches) if w.watch.required]
        self._silent: dict[int, Now] = {}
        self._told: set[int] = set()

    def look(self, values: list[float | None], now: Now) -> list[int]:
        """Watches that have had no value for a whole probation of ticks, each told once until it speaks again."""
        new = []
        levels, silent, told = self._observer.levels, self._silent, self._told
        for i, slot in enumerate(self._slots):
            value = values[slot]
            if value is not None and value == value:  # NaN is missing data
                if i in silent:
                    del silent[i]
                    told.discard(i)
            elif i not in told and levels[i] is None:
                since = silent.setdefault(i, now)
                if now.tick - since.tick >= self._patience:
                    told.add(i)
                    new.append(i)
        return new

    @property
    def is_waiting(self) -> bool:
        """Whether something is silent and not yet told: the next row must be looked at too."""
        return len(self._silent) > len(self._told)

    def is_healthy(self) -> bool:
        """Nothing RED, nothing required unknown. YELLOW is healthy: most slow windows of a healthy run are."""
        levels = self._observer.levels
        if any(level is not None and level >= Level.RED for level in levels):
            return False
        return all(levels[i] is not None for i in self._required)
