"""When memory will reach its limit, from a few seconds of readings: only growth that keeps its pace counts."""

from __future__ import annotations

from collections import deque
from math import inf

_PARTS = 4
_LEAST_SHARE = 0.5


class Growth:
    """The last readings of memory in use, at most ``window_s`` old.

    A line is fitted by least squares. Growth counts once every quarter of a window (at least ``least_s`` long) has
    grown too, and each by half of the mean pace at least: loading a model is a jump, not a leak. Below half of
    the limit nothing is predicted. Covered: steady leaks. Not covered: a leap past the limit between two readings.
    """

    def __init__(self, *, window_s: float = 20.0, least_s: float = 2.0) -> None:
        self._window_s, self._least_s = window_s, least_s
        self._readings: deque[tuple[float, float]] = deque()

    def take(self, seconds: float, in_use: float) -> None:
        """One reading: a moment in seconds, bytes in use."""
        self._readings.append((seconds, in_use))
        while seconds - self._readings[0][0] > self._window_s:
            self._readings.popleft()

    def forget(self) -> None:
        """Another process: its memory begins anew."""
        self._readings.clear()

    @property
    def pace(self) -> float:
        """Bytes a second, where growth is steady; 0 otherwise."""
        readings = [*self._readings]
        if len(readings) < 2 * _PARTS or readings[-1][0] - readings[0][0] < self._least_s:
            return 0.0
        pace = _slope(readings)
        size = len(readings) / _PARTS
        parts = [readings[int(i * size) : int((i + 1) * size) + 1] for i in range(_PARTS)]
        is_steady = pace > 0 and all(_rise(part) >= 0.5 * pace * (part[-1][0] - part[0][0]) for part in parts)
        return pace if is_steady else 0.0

    def seconds_to(self, limit: float | None) -> float:
        """Seconds until ``limit`` bytes at the present pace; infinite where none is in sight."""
        if limit is None or not self._readings:
            return inf
        now, pace = self._readings[-1][1], self.pace
        if now < _LEAST_SHARE * limit or pace <= 0.0:
            return inf
        return max(0.0, (limit - now) / pace)


def _rise(part: list[tuple[float, float]]) -> float:
    return part[-1][1] - part[0][1]


def _slope(readings: list[tuple[float, float]]) -> float:
    n = len(readings)
    mean_t = sum(t for t, _ in readings) / n
    mean_m = sum(m for _, m in readings) / n
    above = sum((t - mean_t) * (m - mean_m) for t, m in readings)
    below = sum((t - mean_t) ** 2 for t, _ in readings)
    return above / below if below > 0 else 0.0
