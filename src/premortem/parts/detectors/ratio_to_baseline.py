"""A value against a baseline measured earlier and kept."""

from __future__ import annotations

from math import inf, isfinite, isnan, nan
from typing import final

from premortem.core.detector import Level, State
from premortem.parts.detectors.levels import CRITICAL, GREEN, RED, YELLOW
from premortem.parts.detectors.snapshot import put_back, require, take

_FIELDS = ("baseline",)


@final
class RatioToBaseline:
    """Assesses value / baseline; inconclusive until a baseline is given by ``rebase`` or as a parameter.

    Bounds are ratios (1.3: 30 % above); only higher counts, lower is GREEN. The baseline never learns from the
    stream. Scale invariant. NaN is inconclusive.
    """

    __slots__ = ("_critical", "_red", "_yellow", "baseline", "params")

    def __init__(
        self,
        *,
        yellow: float = nan,
        red: float = 1.3,
        critical: float = nan,
        baseline: float = nan,
    ) -> None:
        """Bounds as ratios, NaN leaves one out; ``baseline`` in the signal's unit, positive."""
        self.params = {"yellow": yellow, "red": red, "critical": critical, "baseline": baseline}
        bounds = [b for b in (yellow, red, critical) if not isnan(b)]
        require(bool(bounds), "RatioToBaseline", "no bound", "at least one of yellow, red, critical")
        require(bounds == sorted(bounds), "RatioToBaseline", self.params, "yellow <= red <= critical")
        self._yellow, self._red, self._critical = (inf if isnan(b) else float(b) for b in (yellow, red, critical))
        self.baseline = nan
        if not isnan(baseline):
            self.rebase(baseline)

    def rebase(self, baseline: float) -> None:
        """Set the healthy value; raises ``ConfigError`` unless it is finite and positive."""
        require(isfinite(baseline) and baseline > 0.0, "RatioToBaseline.rebase", baseline, "a positive value")
        self.baseline = float(baseline)

    def observe(self, value: float) -> Level | None:
        """Assess one value; ``None`` without a baseline and for NaN."""
        ratio = value / self.baseline
        if ratio <= self._yellow and ratio <= self._red and ratio <= self._critical:
            return GREEN
        if ratio != ratio:
            return None
        if ratio > self._critical:
            return CRITICAL
        return RED if ratio > self._red else YELLOW

    def state(self) -> State:
        """The baseline."""
        return take(self, _FIELDS)

    def load(self, state: State) -> None:
        """Resume; raises ``KeyError`` when a number is missing."""
        put_back(self, _FIELDS, state)
