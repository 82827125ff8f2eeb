"""The healthy baseline: learned from healthy values only, frozen when a checkpoint earns its good mark.

Not frozen at detection: the onset of a fault is earlier than its detection (kernel decision 5).
"""

from __future__ import annotations

import math

from premortem.core.plan import Plan
from premortem.core.verification import Band

_MEMORY = 1 / 32
_LEARNT = 31.0  # from here on a value weighs 1/32, however many came before
_WARM_UP = 8
_NONE: frozenset[int] = frozenset()


class _Location:
    """Exponentially weighted location and mean absolute deviation; one value moves it by a bounded step."""

    __slots__ = ("count", "location", "spread")

    def __init__(self) -> None:
        self.count = 0.0
        self.location = 0.0
        self.spread = 0.0

    def learn(self, value: float) -> None:
        error = value - self.location
        size = -error if error < 0.0 else error
        if not size < math.inf:
            return
        count = self.count
        if count < _LEARNT:
            self._begin(value)
            return
        limit = 5.0 * self.spread + 1e-12
        if size > limit:
            error = limit if error > 0.0 else -limit
            size = limit
        self.count = count + 1.0
        self.location += _MEMORY * error
        self.spread += _MEMORY * (size - self.spread)

    def _begin(self, value: float) -> None:
        """While little is known each value weighs as much as the others."""
        self.count += 1.0
        if self.count == 1.0:
            self.location = value
            return
        error = value - self.location
        if self.count > _WARM_UP:
            limit = 5.0 * self.spread + 1e-12
            error = max(-limit, min(limit, error))
        weight = 1.0 / self.count
        self.location += weight * error
        self.spread += weight * (abs(error) - self.spread)


class Baseline:
    """Trackers of the banded signals, the frozen bands, and the checkpoints on probation.

    A workload that offers no checkpoints earns its good mark by itself, after each probation of healthy ticks.
    """

    def __init__(self, plan: Plan) -> None:
        self._slots = [(i, s) for i, s in enumerate(plan.signals) if s.banded]
        self._trackers = {s.name: _Location() for _, s in self._slots}
        self._learners = [(i, self._trackers[s.name].learn) for i, s in self._slots]
        self._probation = plan.probation
        self._candidates: list[int] = []
        self._has_checkpoints = False
        self._self_mark: int | None = None
        self.healthy_since: int | None = None
        self.bands: dict[str, Band] = {}
        self.good_tick: int | None = None

    @property
    def is_unknown(self) -> bool:
        """Whether there are banded signals and no band: nothing healthy was ever seen."""
        return bool(self._slots) and not self.bands

    def candidate(self, tick: int) -> None:
        """A checkpoint was saved at this tick: its probation begins if the workload is healthy."""
        self._has_checkpoints = True
        if self.healthy_since is not None:
            self._candidates.append(tick)

    def healthy(self, values: list[float | None], tick: int, flagged: frozenset[int] = _NONE) -> int | None:
        """Learn from one healthy observation, but for flagged slots; returns a candidate's tick once it is good."""
        if self.healthy_since is None:
            self.healthy_since = self._self_mark = tick
        for slot, learn in self._learners:
            value = values[slot]
            if value is not None and slot not in flagged:
                learn(value)
        if self._candidates:
            if tick - self._candidates[0] >= self._probation:
                return self._mark(self._candidates.pop(0))
        elif not self._has_checkpoints and self._self_mark is not None and tick - self._self_mark >= self._probation:
            self._self_mark = tick
            self.freeze()
        return None

    def disturbed(self) -> None:
        """Something is wrong or unknown: probation starts again from nothing."""
        self.healthy_since = None
        self._candidates.clear()

    def freeze(self) -> None:
        """Take the present trackers as the healthy band."""
        for _, signal in self._slots:
            tracker = self._trackers[signal.name]
            if tracker.count >= _WARM_UP:
                # mean absolute deviation to sigma for a normal signal; 1 % of the level is the least width
                scale = max(1.2533 * tracker.spread, 0.01 * abs(tracker.location), 1e-12)
                self.bands[signal.name] = Band(tracker.location, scale, signal.higher_is_worse)

    def banded(self, values: list[float | None]) -> dict[str, float]:
        """The banded values of one observation, those present."""
        found = ((signal.name, values[slot]) for slot, signal in self._slots)
        return {name: value for name, value in found if value is not None}

    def holds(self, means: dict[str, float], count: int) -> bool:
        """Whether every banded signal's mean is inside its band; a missing one is outside."""
        slack = {s.name: s.slack for _, s in self._slots}
        return all(
            n in means and band.holds(means[n], count, sigmas=3.0 * slack.get(n, 1.0)) for n, band in self.bands.items()
        )

    def forget(self) -> None:
        """Accept a new normal: the bands are learned again."""
        self.bands.clear()
        self._trackers = {s.name: _Location() for _, s in self._slots}
        self._learners = [(i, self._trackers[s.name].learn) for i, s in self._slots]
        self.disturbed()

    def state(self) -> dict[str, object]:
        """Plain data to resume from."""
        return {
            "trackers": {n: [t.count, t.location, t.spread] for n, t in self._trackers.items()},
            "bands": {n: [b.location, b.scale, b.higher_is_worse] for n, b in self.bands.items()},
            "good_tick": self.good_tick,
        }

    def load(self, state: dict[str, object]) -> None:
        """Resume; candidates on probation start again."""
        trackers, bands, good = state["trackers"], state["bands"], state["good_tick"]
        assert isinstance(trackers, dict)
        assert isinstance(bands, dict)
        for name, (count, location, spread) in trackers.items():
            if name in self._trackers:
                tracker = self._trackers[name]
                tracker.count, tracker.location, tracker.spread = count, location, spread
        self.bands = {n: Band(*numbers) for n, numbers in bands.items() if n in self._trackers}
        self.good_tick = good if isinstance(good, int) else None
        self.disturbed()

    def _mark(self, tick: int) -> int:
        self.good_tick = tick
        self.freeze()
        return tick
