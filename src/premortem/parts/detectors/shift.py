"""A sustained rise: two one-sided cumulative sums over log values, against the lowest recent level."""

from __future__ import annotations

from math import inf, log
from typing import final

from premortem.core.detector import Level, State
from premortem.parts.detectors.levels import GREEN, RED
from premortem.parts.detectors.snapshot import put_back, require, take, take_window, window_from

_FIELDS = (
    "bends", "block_count", "block_sum", "calm", "closed", "count", "fast", "held", "highest", "last", "lowest",
    "mean_1", "mean_2", "red", "reference", "scale", "slow", "wander", "width",
)  # fmt: skip
_BLOCK = 32.0
_BLOCKS = 8
_FAST_CLIP = 4.0
_FAST_DRIFT = 1.25
_SLOW_CLIP = 2.0  # the tail of batch difficulty is heavy: in the slow sum no one step counts for more
_SCALE_MEMORY = 1 / 64
_CHANGE_CLIP = 1.5
_TO_SIGMA = 1.0876  # 1 / mean difference of two normal values of sigma 1, clipped at 1.5: tails hardly count
_WANDER_MEMORY = 1 / 8
_CALM_DRIFT = 0.75  # widths above the reference that still count as back
_CALM_BOUND = 8.0
_BEND_TO_SIGMA = 2.743  # 1 / mean counted |m0 - 2 m1 + m2| of means of 32 independent values of sigma 1


@final
class Shift:
    """RED when a positive stream rises and stays up; one jump that heals alone never is.

    The reference is the lowest mean among the last 8 admitted blocks of 32 values: a falling loss pulls it down at
    once, a flattening one is never extrapolated, a slow rise cannot drag it up before it is seen. Each block goes
    without its lowest and highest value: one lucky batch would set a level that no other can keep. The width is the
    larger of two: clipped step-to-step differences, which no trend inflates, and the bend between
    neighbouring block means, for streams that wander. Two sums after Page (1954): a fast one for jumps of about
    three widths, a slow one for ramps and small shifts. A block in which a sum passed half its bound is not
    admitted, and values while RED enter nothing. Clears by a third sum, towards the reference.

    Scale invariant (log values). Covered: level shifts, ramps, exponential growth, jumps that decay over ten or more
    steps. Not covered: single steps (Spike); zero or negative values (inconclusive); growth slower than about one
    width in 256 values, which becomes the normal. A healthy stream whose noise is autocorrelated
    (AR(1) of 0.5 and more: many steps on one batch) alarms at the defaults: give it ``wander`` 1.5.

    Source: E. S. Page, Continuous inspection schemes, Biometrika 41 (1954).
    """

    __slots__ = (
        *_FIELDS, "_fast_bound", "_bend", "_fast_hold", "_floor",
        "_slow_bound", "_slow_drift", "_slow_hold", "_warm_up", "means", "params",
    )  # fmt: skip

    def __init__(
        self,
        *,
        fast_bound: float = 7.5,
        slow_drift: float = 0.6,
        slow_bound: float = 12.0,
        wander: float = 0.5,
        floor: float = 0.02,
        warm_up: float = 160,
    ) -> None:
        """Drift and bounds in widths; ``floor``: the least width in log units (0.02: 2 %); ``warm_up`` in values.

        ``wander``: how much of the width that wandering block means imply counts; at 0.5 independent noise never
        widens it, 1.5 suits autocorrelated streams and delays every finding.
        """
        self.params: dict[str, float] = {
            "fast_bound": fast_bound, "slow_drift": slow_drift,
            "slow_bound": slow_bound, "wander": wander, "floor": floor, "warm_up": warm_up,
        }  # fmt: skip
        require(0.0 < slow_drift < _SLOW_CLIP, "Shift.slow_drift", slow_drift, f"between 0 and {_SLOW_CLIP:g} widths")
        require(fast_bound > _FAST_CLIP, "Shift.fast_bound", fast_bound, f"more than {_FAST_CLIP:g}: one jump never is")
        require(slow_bound > _SLOW_CLIP, "Shift.slow_bound", slow_bound, f"more than {_SLOW_CLIP:g} widths")
        require(wander >= 0.0, "Shift.wander", wander, "0 or more")
        require(floor > 0.0, "Shift.floor", floor, "a positive width")
        require(warm_up >= _BLOCK, "Shift.warm_up", warm_up, f"at least one block of {_BLOCK:g} values")
        self._fast_bound, self._bend = float(fast_bound), _BEND_TO_SIGMA * float(wander)
        self._slow_drift, self._slow_bound = float(slow_drift), float(slow_bound)
        self._fast_hold, self._slow_hold = 0.5 * self._fast_bound, 0.5 * self._slow_bound
        self._floor, self._warm_up = float(floor), float(warm_up)
        self.count = self.last = self.scale = self.wander = self.reference = 0.0
        self.fast = self.slow = self.calm = self.red = 0.0
        self.block_sum = self.block_count = self.lowest = self.highest = 0.0
        self.bends = self.closed = self.held = self.mean_1 = self.mean_2 = 0.0
        self.width = self._floor
        self.means: list[float] = []

    def observe(self, value: float) -> Level | None:
        """Take one positive value; ``None`` during warm-up and for zero, negative or non-finite values."""
        if not 0.0 < value < inf:
            return None
        x = log(value)
        if self.count < self._warm_up:
            self._warm(x)
            return None
        z = (x - self.reference) / self.width
        if z > _SLOW_CLIP:
            slow = self.slow + _SLOW_CLIP - self._slow_drift
            if z > _FAST_CLIP:
                z = _FAST_CLIP
        else:
            if z < -_FAST_CLIP:
                z = -_FAST_CLIP
            slow = self.slow + z - self._slow_drift
        fast = self.fast + z - _FAST_DRIFT
        self.fast = fast = fast if fast > 0.0 else 0.0
        self.slow = slow = slow if slow > 0.0 else 0.0
        if self.red or fast >= self._fast_bound or slow >= self._slow_bound:
            return self._flagged(x, z)
        if fast >= self._fast_hold or slow >= self._slow_hold:
            self.held = 1.0
        self._learn(x, z)
        return GREEN

    def state(self) -> State:
        """All sums, the reference and the block means."""
        return take(self, _FIELDS) | take_window("means", self.means)

    def load(self, state: State) -> None:
        """Resume; raises ``KeyError`` when a number is missing."""
        means = window_from("means", state)
        put_back(self, _FIELDS, state)
        self.means = means

    def _learn(self, x: float, z: float) -> None:
        change = x - self.last
        self.last = x
        scale = self.scale
        if change < 0.0:
            change = -change
        if change > _CHANGE_CLIP * scale:
            change = _CHANGE_CLIP * scale
        self.scale = scale + _SCALE_MEMORY * (_TO_SIGMA * change - scale)
        self._take(x if z < _FAST_CLIP else self.reference + _FAST_CLIP * self.width)

    def _warm(self, x: float) -> None:
        self.count += 1.0
        if self.count > 1.0:
            change = abs(x - self.last)
            if self.count > _BLOCK:
                change = min(change, _CHANGE_CLIP * self.scale)
            weight = max(_SCALE_MEMORY, 1.0 / (self.count - 1.0))
            self.scale += weight * (_TO_SIGMA * change - self.scale)
        self.last = x
        self._take(x)

    def _take(self, x: float) -> None:
        if not self.block_count:
            self.lowest = self.highest = x
        elif x < self.lowest:
            self.lowest = x
        elif x > self.highest:
            self.highest = x
        self.block_sum += x
        self.block_count += 1.0
        if self.block_count >= _BLOCK:
            self._close_block()

    def _close_block(self) -> None:
        mean = (self.block_sum - self.lowest - self.highest) / (self.block_count - 2.0)
        self._begin_block()
        self.closed += 1.0
        if self.closed <= 2.0:
            self.wander = self.scale
        else:
            self._learn_wander(mean)
        self.mean_2, self.mean_1 = self.mean_1, mean
        means = self.means
        if not self.held:
            means.append(mean)
            if len(means) > _BLOCKS:
                del means[0]
            self.reference = min(means)
        self.held = 0.0
        self.width = max(self.scale, self.wander, self._floor)

    def _begin_block(self) -> None:
        self.block_sum = self.block_count = self.lowest = self.highest = 0.0

    def _learn_wander(self, mean: float) -> None:
        bend = mean - 2.0 * self.mean_1 + self.mean_2
        # a falling loss that slows down bends too: that is trend, not wander
        if bend > 0.0 and mean < self.mean_1:
            return
        self.bends += 1.0
        sigma = min(self._bend * abs(bend), 4.0 * self.width)
        self.wander += max(_WANDER_MEMORY, 1.0 / (1.0 + self.bends)) * (sigma - self.wander)

    def _flagged(self, x: float, z: float) -> Level:
        self.last = x
        if not self.red:
            self.red, self.calm = 1.0, 0.0
        self.fast = min(self.fast, self._fast_bound)
        self.slow = min(self.slow, self._slow_bound)
        calm = self.calm + _CALM_DRIFT - z
        self.calm = calm if calm > 0.0 else 0.0
        if self.calm < _CALM_BOUND:
            return RED
        self.fast = self.slow = self.red = self.calm = 0.0
        self.held = 0.0
        self._begin_block()
        return GREEN
