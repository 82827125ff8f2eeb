"""The window that decides whether a rung helped: fresh, conclusive, GREEN, and inside the healthy band.

Silence holds: an observation that is missing counts neither for nor against (kernel decision 6).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum

from premortem.core.clock import Duration, Now

_LONGEST_WARM_UP = 256
"""Observations; a detector that says nothing for longer is silent."""


class Verdict(Enum):
    """What a window says so far."""

    OPEN = "open"
    GREEN = "green"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True)
class Band:
    """A healthy baseline of one signal: robust location and scale, frozen at the last good mark."""

    location: float
    scale: float
    higher_is_worse: bool = True

    def holds(self, mean: float, count: int, sigmas: float = 3.0) -> bool:
        """Whether the mean of ``count`` observations lies inside the band.

        The mean of n noisy values is √n times steadier than one, but neighbours are correlated: the band
        shrinks with n^¼ and never below one scale.
        """
        if not math.isfinite(mean):
            return False
        width = max(1.0, sigmas / max(1, count) ** 0.25) * self.scale
        excess = mean - self.location if self.higher_is_worse else self.location - mean
        return bool(excess <= width)


@dataclass(slots=True)
class Window:
    """Counts observations after a settle period, with a deadline.

    At the deadline it has failed if anything spoke against health: an observation that was not GREEN, or a run of
    GREEN ones outside the band. Where nothing did and too little was seen, it is inconclusive (law 2).
    """

    opened: Now
    settle: Duration
    confirm: int
    deadline: Duration
    green: int = 0
    against: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    settled: Now | None = None
    held: int = 0
    reserve: float | None = None
    """Observations that are kept for what comes after this rung, where a limit is foreseen."""

    def has_used_its_half(self, left: float) -> bool:
        """Whether, of the ``left`` observations to a limit when one was first foreseen, only half are left.

        A half each: however fast it grows, and be the forecast wrong by a factor of two, the next rung has its turn.
        """
        if left == math.inf:
            return False
        if self.reserve is None:
            self.reserve = left / 2.0
        return left <= self.reserve

    def hold(self, now: Now) -> None:
        """A detector warms up on present values, as after a restore: that is no silence, and the deadline waits."""
        if self.settled is not None and self.held < _LONGEST_WARM_UP:
            self.held += 1
            self.settled = now

    def take(self, now: Now, *, green: bool | None, values: dict[str, float]) -> Verdict:
        """Take one observation. ``green`` is ``None`` where the assessment is inconclusive.

        ``values`` are the banded signals of this observation, summed over the current run of GREEN ones.
        """
        if self.settled is None:
            if not self.settle.has_passed(self.opened, now):
                return Verdict.OPEN
            self.settled = now
        if green is True:
            self.add(values)
        elif green is False:
            self.restart()
        if self.green >= self.confirm:
            return Verdict.GREEN
        if self.deadline.has_passed(self.settled, now):
            return Verdict.FAILED if self.against else Verdict.INCONCLUSIVE
        return Verdict.OPEN

    def extend(self, confirm: int) -> None:
        """Ask for more observations, and give the time that they take."""
        self.confirm = confirm
        self.deadline = Duration(max(self.deadline.amount, 3.0 * confirm), self.deadline.unit)

    def restart(self) -> None:
        """Something spoke against health: begin the run of GREEN observations anew; the deadline stands."""
        self.against += 1
        self.green = 0
        self.sums.clear()

    def means(self) -> dict[str, float]:
        """Mean of each banded signal over the run of GREEN observations."""
        return {name: total / self.green for name, total in self.sums.items()} if self.green else {}

    def add(self, values: dict[str, float]) -> None:
        """Count one GREEN observation."""
        self.green += 1
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
