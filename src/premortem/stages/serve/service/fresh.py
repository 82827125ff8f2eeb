"""Windows of fresh requests: each counts in one window, and a window that has grown old says nothing any more."""

from __future__ import annotations

from premortem.stages.serve.service.latency import Place, Samples, quantile_of

HELD_S = 60.0
"""Seconds after which a window that no other followed is no news of the service."""


class LatencyWindow:
    """The newest full window of latencies. ``size``: requests that it needs."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._place: Place = (0, 0)
        self._ordered: list[float] | None = None
        self._filled_at = 0.0

    def take(self, samples: Samples, now: float) -> bool:
        """Whether a new one was filled. ``now`` in seconds."""
        marks = self._place[0]
        self._place, ordered = samples.window(self._place, self.size)
        if self._place[0] != marks or now - self._filled_at > HELD_S:
            self._ordered = None
        if ordered is None:
            return False
        self._ordered, self._filled_at = ordered, now
        return True

    def quantile(self, share: float) -> float | None:
        """Milliseconds; ``None`` before the first window since a mark, and where the newest is old."""
        return None if self._ordered is None else quantile_of(self._ordered, share)


class AskedWindow:
    """Who asked, over at least ``size`` requests: how many a second, and the share of them that was turned away."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.per_s: float | None = None
        """In the newest window, those who were turned away included."""
        self.refused_share: float | None = None
        """At the door or after acceptance, of all who asked; ``None`` before the first window."""
        self._begin: tuple[float, int, int] | None = None
        self._filled_at = 0.0

    def begin_anew(self) -> None:
        """Who was turned away until now was so under another setting."""
        self._begin, self.refused_share = None, None

    def take(self, accepted: int, refused: int, broken: int, now: float) -> None:
        """Counts since the start of the service: accepted, refused at the door, refused after acceptance."""
        asked, away = accepted + refused, refused + broken
        if self._begin is None:
            self._begin, self._filled_at = (now, asked, away), now
            return
        if now - self._filled_at > HELD_S:
            self.refused_share = self.per_s = None
        since, asked_before, away_before = self._begin
        if asked - asked_before < self.size or now <= since:
            return
        self.refused_share = min(1.0, (away - away_before) / (asked - asked_before))
        self.per_s = (asked - asked_before) / (now - since)
        self._begin, self._filled_at = (now, asked, away), now


__all__ = ["HELD_S", "AskedWindow", "LatencyWindow"]
