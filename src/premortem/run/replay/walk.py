"""Walks over a log's rows as a run would have lived them: steps, restarts, gaps, a clock that never goes back."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from premortem.run.replay.log import Row

_KINDS = 64
_TOLD = 5


@dataclass(slots=True)
class Walk:
    """Follows the steps, and remembers what was odd.

    Attributes:
        first, step: the first and the newest step.
        num_restarts, restarts: jumps back, and the first few as (observation, from step, to step).
        begins_anew: whether the newest jump back went to the start of the log: another run.
        strides: how often each distance between two steps came, for the first kinds of it.
        longest: the longest distance, and the step before it.
        num_unnumbered: rows without a step of their own, counted on from the one before.
    """

    first: float = 0.0
    step: float = -1.0
    num_rows: int = 0
    num_restarts: int = 0
    restarts: list[tuple[int, float, float]] = field(default_factory=list)
    begins_anew: bool = False
    strides: dict[float, int] = field(default_factory=dict)
    longest: tuple[float, float] = (0.0, 0.0)
    num_unnumbered: int = 0
    _stride: float = math.nan
    _same: int = 0

    def to(self, step: float) -> bool:
        """Go to the next observation's step, NaN where it has none; whether that is a jump back."""
        before = self.step
        self.num_rows += 1
        if step != step:
            step = before + 1.0
            self.num_unnumbered += 1
        self.step = step
        if step - before == self._stride:
            self._same += 1
            return False
        return self._turn(before, step)

    @property
    def stride(self) -> float:
        """The usual distance between two steps; 1 where nothing is known."""
        counts = self._counts()
        return max(counts, key=lambda s: counts[s]) if counts else 1.0

    @property
    def num_gaps(self) -> int:
        """How often more than the usual distance lay between two steps."""
        usual = self.stride
        return sum(count for stride, count in self._counts().items() if stride > usual)

    def _counts(self) -> dict[float, int]:
        counts = dict(self.strides)
        if self._stride >= 0.0:
            counts[self._stride] = counts.get(self._stride, 0) + self._same
        return counts

    def _turn(self, before: float, step: float) -> bool:
        """A distance other than the last one."""
        if self.num_rows == 1:
            self.first = step
            return False
        counts = self._counts()
        if len(counts) <= _KINDS:
            self.strides = counts
        self._stride, self._same = step - before, 1
        if step < before:
            self.num_restarts += 1
            if len(self.restarts) < _TOLD:
                self.restarts.append((self.num_rows, before, step))
            self.begins_anew = step <= self.first + self.stride  # some loggers begin at 0 and some at 1
            return True
        if self._stride > self.longest[0]:
            self.longest = (self._stride, before)
        return False


@dataclass(slots=True)
class Clock:
    """The kernel's seconds by the log's own times; by its steps, one second each, where it has none."""

    seconds: float = 0.0
    num_back: int = 0
    """How often the log's time went back within a run: the kernel's never does."""
    _began: float = math.nan

    def at(self, time: float) -> float:
        """Seconds since the first observation; after a jump back they go on from where they were."""
        began = self._began
        if time != time:
            if began != began:
                self.seconds += 1.0
        elif began != began:
            self._began = time - self.seconds
        elif time - began >= self.seconds:
            self.seconds = time - began
        else:
            self.num_back += 1
            self._began = time - self.seconds
        return self.seconds

    def begin_anew(self) -> None:
        """Another run, whose time may count from 0 again."""
        self._began = math.nan


def joined(rows: Iterator[Row]) -> Iterator[Row]:
    """Neighbours of one step that speak of different signals are one observation: many loggers write them apart."""
    pending: Row | None = None
    for row in rows:
        if pending is None:
            pending = row
        elif row[0] == pending[0] and _join(pending[2], row[2]):
            if row[1] == row[1]:
                pending = (pending[0], row[1], pending[2])
        else:
            yield pending
            pending = row
    if pending is not None:
        yield pending


def _join(values: list[float | None], others: list[float | None]) -> bool:
    """Fill in what is missing; refuse, and change nothing, where both speak."""
    if any(a is not None and b is not None for a, b in zip(values, others, strict=True)):
        return False
    values[:] = [b if a is None else a for a, b in zip(values, others, strict=True)]
    return True
