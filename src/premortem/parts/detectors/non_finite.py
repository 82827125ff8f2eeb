"""NaN or infinity: CRITICAL at once."""

from __future__ import annotations

from typing import final

from premortem.core.detector import Level, State
from premortem.parts.detectors.levels import CRITICAL, GREEN


@final
class NonFinite:
    """CRITICAL on the first NaN or infinite value, GREEN on any finite one. Holds no state.

    Covered: NaN and Inf in the value itself. Not covered: NaN hidden before it arrives, as by a logger that
    filters it.
    """

    __slots__ = ("params",)

    def __init__(self) -> None:
        self.params: dict[str, float] = {}

    def observe(self, value: float) -> Level | None:
        """Assess one value."""
        # inf - inf and nan - nan are NaN, which equals nothing: half the cost of math.isfinite
        return GREEN if value - value == 0.0 else CRITICAL

    def state(self) -> State:
        """Empty: it remembers nothing."""
        return {}

    def load(self, state: State) -> None:
        """Nothing to resume."""
