"""A memorised training set is forgotten again: collapse after (or before) grokking."""

from __future__ import annotations

from math import inf
from typing import final

from premortem.core.detector import Level, State
from premortem.parts.detectors.levels import GREEN, RED, YELLOW
from premortem.parts.detectors.snapshot import put_back, require, take

_FIELDS = ("armed", "red")


@final
class Collapse:
    """RED when the training loss of a memorised set rises above the loss at which accuracy falls below 0.9.

    Armed by a loss below ``memorised``; before that inconclusive. Bounds are mean cross-entropies in nats an
    item, from a logistic fit of "accuracy below 0.9" on log loss over six studies (``benchmarks/grokking.py``): the
    odds are 1 to 999 at ``memorised``, 1 to 99 at ``yellow``, 1 to 9 at ``red``. GREEN again below
    ``memorised``. Fixed bounds learn nothing, so nothing flagged can enter.

    It reads the loss alone: the weight norm told collapsing runs from others worse on studies not fitted on.

    Covered: classification or next-token loss over a set that can be memorised. Not covered: losses with
    an entropy floor above ``memorised`` (language models): never armed, and says so by staying inconclusive.
    """

    __slots__ = (*_FIELDS, "_memorised", "_red", "_yellow", "params")

    def __init__(self, *, memorised: float = 0.22, yellow: float = 0.29, red: float = 0.39) -> None:
        """All in nats: arming and clearing below ``memorised``, bounds above."""
        self.params = {"memorised": memorised, "yellow": yellow, "red": red}
        require(0.0 < memorised <= yellow <= red, "Collapse", self.params, "0 < memorised <= yellow <= red")
        self._memorised, self._yellow, self._red = float(memorised), float(yellow), float(red)
        self.armed = self.red = 0.0

    def observe(self, value: float) -> Level | None:
        """Take one training loss; ``None`` until armed and for NaN. +Inf is RED once armed."""
        if value <= self._memorised:
            if value == -inf:
                return None
            self.armed, self.red = 1.0, 0.0
            return GREEN
        if value != value or not self.armed:
            return None
        if value > self._red or self.red:
            self.red = 1.0
            return RED
        return YELLOW if value > self._yellow else GREEN

    def state(self) -> State:
        """Whether it is armed, and RED."""
        return take(self, _FIELDS)

    def load(self, state: State) -> None:
        """Resume; raises ``KeyError`` when a number is missing."""
        put_back(self, _FIELDS, state)
