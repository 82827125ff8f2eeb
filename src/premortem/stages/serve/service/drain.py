"""How fast requests are answered while more wait than fit into a batch, and so how long a new one would wait."""

from __future__ import annotations

_MEMORY_S = 2.0


class Drain:
    """Answers a second under full batches, averaged over about two seconds of such time.

    A batch that is not full says little about what full ones would do, and idle time says nothing: both are left out.
    """

    def __init__(self) -> None:
        self.per_s: float | None = None
        """``None`` before the first measurement."""
        self._since: float | None = None

    def answered(self, count: int, now: float, *, is_full: bool) -> None:
        """So many were answered; ``is_full``: what is left fills the batch still."""
        if self._since is not None and now > self._since:
            spent = now - self._since
            rate = count / spent
            weight = min(1.0, spent / _MEMORY_S)
            self.per_s = rate if self.per_s is None else self.per_s + weight * (rate - self.per_s)
        self._since = now if is_full else None

    def stopped(self) -> None:
        """Nothing works: the time until it does again is not the model's."""
        self._since = None

    def wait_s(self, waiting: int) -> float:
        """Seconds until so many are answered; 0 while nothing is known."""
        return waiting / self.per_s if self.per_s else 0.0
