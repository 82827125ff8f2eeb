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
        self._required = [i for i, w in enumerate(plan.watches) if w.watch.required]
        self._silent: dict[int, Now] = {}
        self._told: set[int] = set()

    def look(self, values: list[float | None], now: Now) -> list[int]:
        """Watches that have had no value for a whole probation of ticks, each told once until it speaks again."""
        new = []
        levels = self._observer.levels
        for i, bound in enumerate(self._observer.watches):
            value = values[bound.slot]
            if value == value and value is not None:  # NaN is missing data
                self._silent.pop(i, None)
                self._told.discard(i)
            elif levels[i] is None:
                since = self._silent.setdefault(i, now)
                if i not in self._told and now.tick - since.tick >= self._patience:
                    self._told.add(i)
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
