"""A curve of any length in a few hundred buckets: lowest, highest and last finite value of each."""

from __future__ import annotations

import math

_MOST = 640


class Sketch:
    """Buckets of equal numbers of values; when they are full, neighbours are joined and each takes twice as many.

    No peak is lost: a bucket keeps its lowest and its highest value, and whether one was not finite.
    """

    __slots__ = ("_count", "_high", "_low", "_odd", "_per", "_step", "buckets")

    def __init__(self) -> None:
        self.buckets: list[tuple[float, float, float, bool]] = []
        """(first step, lowest, highest, whether a value was not finite)"""
        self._per = 1
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._count, self._step, self._low, self._high, self._odd = 0, 0.0, math.inf, -math.inf, False

    def add(self, step: float, value: float | None) -> None:
        """The next value of the curve; ``None`` is a gap."""
        if not self._count:
            self._step = step
        self._count += 1
        if value is not None:
            if value - value != 0.0:
                self._odd = True
            else:
                if value < self._low:
                    self._low = value
                if value > self._high:
                    self._high = value
        if self._count >= self._per:
            self._close()

    def points(self) -> list[tuple[float, float]]:
        """(step, value) to be joined by a line: each bucket's lowest and highest; NaN where one was not finite."""
        found = []
        last = [(self._step, self._low, self._high, self._odd)] if self._count else []
        for step, low, high, odd in self.buckets + last:
            if low <= high:
                found += [(step, low)] if low == high else [(step, low), (step, high)]
            if odd:
                found.append((step, math.nan))
        return found

    def _close(self) -> None:
        self.buckets.append((self._step, self._low, self._high, self._odd))
        self._start_afresh()
        if len(self.buckets) >= _MOST:
            pairs = zip(self.buckets[::2], self.buckets[1::2], strict=True)
            self.buckets = [(one[0], min(one[1], two[1]), max(one[2], two[2]), one[3] or two[3]) for one, two in pairs]
            self._per *= 2
