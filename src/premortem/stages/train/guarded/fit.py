"""How many bytes a pass over a batch of some size needs: lines through what was measured, never below it.

A forward and backward pass needs a fixed part (gradients, workspaces) and a part that grows with the batch
(activations). A size is the number of elements in the batch's tensors, so that a long sequence counts as long.
"""

from __future__ import annotations

from collections.abc import Callable

_PREDICTED = 4.0
"""Before anything is measured: weights, gradients and two moments, each of the model's size (AF-1.3)."""
_A_SAMPLE = 0.10
"""And 10 % of the model for each sample of the batch (AF-1.3)."""
_KEPT = 64


def predicted(model_bytes: int, samples: int) -> int:
    """The source's rule of thumb for a whole training: 4 × the model, and 10 % of it more for each sample.

    >>> predicted(100, 32)
    720
    """
    return int(model_bytes * (_PREDICTED + _A_SAMPLE * samples))


class Fit:
    """Need in bytes by size, from measurements of single passes; and what was too large."""

    def __init__(self) -> None:
        self.points: dict[int, int] = {}
        self._too_large: tuple[int, float] | None = None

    def measured(self, size: int, grown: int, *, exact: bool = True) -> None:
        """A pass of this size took so many bytes at its peak; the most that was seen counts.

        Not ``exact``: free pages that malloc kept may have hidden some, so it can only raise what was known.
        """
        if not exact and grown <= (self.need(size) or 0.0):
            return
        self.points[size] = max(grown, self.points.get(size, 0))
        if len(self.points) > _KEPT:
            del self.points[sorted(self.points)[_KEPT // 2]]  # the line hangs on its ends

    def failed(self, size: int, room: float) -> None:
        """A pass of this size ran out of memory when there were so many bytes left."""
        if self._too_large is None or size <= self._too_large[0]:
            self._too_large = (size, room)

    def forget(self) -> None:
        """What was measured no longer holds: the passes are other ones now."""
        self.points.clear()
        self._too_large = None

    @property
    def has_failed(self) -> bool:
        """Whether a pass ran out of memory since the last :meth:`forget`."""
        return self._too_large is not None

    @property
    def smallest_measured(self) -> int:
        """The smallest size that was measured; 0 for none."""
        return min(self.points, default=0)

    @property
    def largest_measured(self) -> int:
        """The largest size that was measured; 0 for none."""
        return max(self.points, default=0)

    def need(self, size: int) -> float | None:
        """Bytes that a pass of this size takes; ``None`` before anything was measured.

        Between two sizes on the line between them; beyond the largest in proportion to it, which is never too low
        as long as there is a fixed part; never lower than that of a smaller size.
        """
        if not self.points:
            return None
        below = max((n for n in self.points if n <= size), default=None)
        if below is None:
            return float(self.points[min(self.points)])
        least = float(max(taken for n, taken in self.points.items() if n <= size))
        above = min((n for n in self.points if n > size), default=None)
        if above is None:
            return max(least, self.points[below] * size / below)
        part = (size - below) / (above - below)
        return max(least, self.points[below] + part * (self.points[above] - self.points[below]))

    def fits(self, size: int, room: float) -> bool:
        """Whether a pass of this size needs no more than ``room`` bytes, as far as is known."""
        if self._too_large is not None and size >= self._too_large[0] and room <= 1.05 * self._too_large[1]:
            return False
        need = self.need(size)
        return need is None or need <= room

    def largest(self, room: float, most: int, size_of: Callable[[int], int]) -> int:
        """The most samples, up to ``most``, that fit; 0 where not even one does. ``size_of`` grows with samples."""
        low, high = 0, most
        while low < high:
            middle = (low + high + 1) // 2
            if self.fits(size_of(middle), room):
                low = middle
            else:
                high = middle - 1
        return low
