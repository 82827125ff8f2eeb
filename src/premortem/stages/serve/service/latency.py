"""How long answers took since a mark. A quantile needs its samples: there is none before."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from itertools import islice

ENOUGH = {0.5: 30, 0.95: 200, 0.99: 200}
"""Samples that a quantile needs before it says anything."""
_KEPT = 10_000
Place = tuple[int, int]
"""How many marks there were, and how many samples had been taken since the last of them."""


class Samples:
    """Milliseconds from acceptance to the end of it, of requests accepted after the mark. Safe from any thread.

    Answers from the cache are not offered. A request that ran out of time counts with the time that it waited: left
    out, a service that answers nothing in time would look fast. Only the newest 10,000 are kept.
    """

    def __init__(self) -> None:
        self._taken: deque[float] = deque(maxlen=_KEPT)
        self._lock = threading.Lock()
        self._mark = float("-inf")
        self.taken = 0
        """Since the mark, those that are no longer kept included."""
        self.marks = 0

    def __len__(self) -> int:
        return len(self._taken)

    def mark(self, now: float) -> None:
        """Forget what was taken; only requests accepted from now on count. ``now``: the service's clock, seconds."""
        with self._lock:
            self._mark, self.taken = now, 0
            self.marks += 1
            self._taken.clear()

    def add(self, accepted_at: float, now: float) -> None:
        """A request that ended now."""
        with self._lock:
            if accepted_at >= self._mark:
                self._taken.append((now - accepted_at) * 1e3)
                self.taken += 1

    def window(self, after: Place, size: int) -> tuple[Place, list[float] | None]:
        """All that was taken behind a place, in order of size, and the place behind it; ``None`` for fewer than
        ``size``. A mark begins anew."""
        with self._lock:
            marks, consumed = after
            if marks != self.marks:
                marks, consumed = self.marks, 0
            fresh = self.taken - consumed
            if fresh < size:
                return (marks, consumed), None
            return (marks, self.taken), sorted(islice(reversed(self._taken), fresh))

    def newest(self, count: int) -> list[float]:
        """Milliseconds of the newest samples, so many at most, in order of size."""
        with self._lock:
            return sorted(islice(reversed(self._taken), count))

    def quantile(self, share: float) -> float | None:
        """Milliseconds that ``share`` of the samples (0.5, 0.95 or 0.99) stay within; ``None`` with too few."""
        return quantile_of(self.newest(_KEPT), share)


def quantile_of(ordered: Sequence[float], share: float) -> float | None:
    """The quantile of samples in order of size; ``None`` with fewer than it needs."""
    if len(ordered) < ENOUGH[share]:
        return None
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
