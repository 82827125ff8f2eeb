"""How fast requests are answered while more wait than fit into a batch, and so how long a new one would wait."""

from __future__ import annotations

import time
from collections.abc import Callable

_MEMORY_S = 2.0
_MOST_WEIGHT = 0.25
"""Of a single gap between answers, however long: a pause of the process is no rate."""
_HOLDS_S = 3.0
"""A rate that kept full batches from forming would never be measured again, and refuse clients for ever."""


class Drain:
    """Answers a second under full batches, averaged over about two seconds of such time.

    A batch that is not full says little about what full ones would do, and idle time says nothing: both are left out.

    Args:
        clock: seconds, never going back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._per_s: float | None = None
        self._measured_at = 0.0
        self._since: float | None = None

    @property
    def per_s(self) -> float | None:
        """``None`` before the first measurement, and when none came for seconds in which no batch was full."""
        is_due = self._since is not None  # a full batch is at work, however slowly
        return self._per_s if is_due or self._clock() - self._measured_at <= _HOLDS_S else None

    def answered(self, count: int, *, is_full: bool) -> None:
        """So many were answered; ``is_full``: what is left fills the batch still."""
        now, known = self._clock(), self.per_s
        self._per_s = known  # what had expired does not come back
        if self._since is not None and now > self._since:
            spent = now - self._since
            rate = count / spent
            weight = min(_MOST_WEIGHT, spent / _MEMORY_S)
            self._per_s = rate if known is None else known + weight * (rate - known)
            self._measured_at = now
        self._since = now if is_full else None

    def stopped(self) -> None:
        """Nothing works: the time until it does again is not the model's."""
        self._since = None

    def forget(self) -> None:
        """Another worker answers, or none: what was measured is not its rate, nor the time until it works."""
        self._per_s = self._since = None

    def wait_s(self, waiting: int) -> float:
        """Seconds until so many are answered; 0 while nothing is known."""
        per_s = self.per_s
        return waiting / per_s if per_s else 0.0
