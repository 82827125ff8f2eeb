"""A quantile above its baseline: p95 latency up by 30 %."""

from __future__ import annotations

from math import isfinite, isnan, nan
from typing import final

from premortem.core.detector import Level, State
from premortem.parts.detectors.levels import GREEN, RED
from premortem.parts.detectors.snapshot import put_back, require, take, take_window, window_from

_FIELDS = ("baseline", "count", "position", "seen")


@final
class Quantile:
    """RED when the ``quantile`` of the last ``samples`` values exceeds the baseline by ``excess`` (HRM-9.2.1).

    The quantile lies above the bound exactly when more than (1 - quantile) of the window does, so counting
    exceedances is the exact test at O(1). Slower only: lower is GREEN. Inconclusive until a baseline is given and
    the window is full. The baseline never learns from the stream. Scale invariant. NaN does not enter; +Inf
    (a request that never returned) counts as above.
    """

    __slots__ = (*_FIELDS, "_allowed", "_bound", "_excess", "_samples", "exceeded", "params")

    def __init__(
        self,
        *,
        quantile: float = 0.95,
        excess: float = 0.3,
        samples: float = 200,
        baseline: float = nan,
    ) -> None:
        """``quantile`` and ``excess`` as shares; ``samples`` in values; ``baseline``: the healthy quantile."""
        self.params = {"quantile": quantile, "excess": excess, "samples": samples, "baseline": baseline}
        require(0.0 < quantile < 1.0, "Quantile.quantile", quantile, "a share between 0 and 1")
        require(excess >= 0.0, "Quantile.excess", excess, "a share of 0 or more")
        require(samples >= 1.0 / (1.0 - quantile), "Quantile.samples", samples, "at least 1 / (1 - quantile) values")
        self._samples, self._excess = int(samples), float(excess)
        # rounding down guards 200 * (1 - 0.95) = 10.000000000000009
        self._allowed = float(int(self._samples * (1.0 - quantile) + 1e-9))
        self.baseline = self._bound = nan
        self.count = self.position = self.seen = 0.0
        self.exceeded = [0.0] * self._samples
        if not isnan(baseline):
            self.rebase(baseline)

    def rebase(self, baseline: float) -> None:
        """Set the healthy quantile and start the window anew; raises ``ConfigError`` unless positive."""
        require(isfinite(baseline) and baseline > 0.0, "Quantile.rebase", baseline, "a positive value")
        self.baseline, self._bound = float(baseline), baseline * (1.0 + self._excess)
        self.count = self.position = self.seen = 0.0
        self.exceeded = [0.0] * self._samples

    def observe(self, value: float) -> Level | None:
        """Take one value; ``None`` until conclusive and for NaN."""
        bound = self._bound
        above = 1.0 if value > bound else 0.0
        if not above and not value <= bound:
            return None
        at = int(self.position)
        exceeded = self.exceeded
        if above != exceeded[at]:
            self.count += 1.0 if above else -1.0
            exceeded[at] = above
        self.position = at + 1 if at + 1 < self._samples else 0
        if self.seen < self._samples:
            self.seen += 1.0
            if self.seen < self._samples:
                return None
        return RED if self.count > self._allowed else GREEN

    def state(self) -> State:
        """The baseline and the window of exceedances."""
        return take(self, _FIELDS) | take_window("exceeded", self.exceeded)

    def load(self, state: State) -> None:
        """Resume; raises ``KeyError`` when a number is missing or the window has another length."""
        exceeded = window_from("exceeded", state)
        if len(exceeded) != self._samples:
            raise KeyError(f"exceeded.{self._samples - 1}")
        put_back(self, _FIELDS, state)
        self.exceeded = exceeded
        self._bound = self.baseline * (1.0 + self._excess)
