"""Signal values on their way to the ledger: a buffer that costs the watched loop next to nothing.

Packing happens on the flusher's side. Values are stored as little-endian float64, so NaN and infinities stay.
"""

from __future__ import annotations

import json
import sys
from array import array
from collections import deque
from collections.abc import Iterator, Mapping
from time import time

from premortem.ledger.chain import Block
from premortem.ledger.ledger import Reading

Tick = tuple[int, float, dict[str, float]]

MOST_WAITING = 100_000
"""Ticks kept in memory while the database cannot take them; then the oldest are dropped and counted."""


class ReadingsBuffer:
    """Ticks not yet written. One thread notes, one flushes: deque's ends are atomic, so no lock is needed."""

    def __init__(self) -> None:
        self._ticks: deque[Tick] = deque()
        self.num_lost = 0

    def __len__(self) -> int:
        return len(self._ticks)

    def note(self, tick: int, values: Mapping[str, float]) -> int:
        """Keep a copy of the values; returns how many ticks wait."""
        self._ticks.append((tick, time(), dict(values)))
        return len(self._ticks)

    def peek(self) -> list[Tick]:
        """What waits now; it goes on waiting until :meth:`drop`."""
        return list(self._ticks)[:MOST_WAITING]

    def drop(self, num_ticks: int) -> None:
        """Forget the oldest ticks: they are written."""
        for _ in range(num_ticks):
            self._ticks.popleft()

    def shed(self) -> None:
        """Drop the oldest ticks over the limit, and count them as lost."""
        excess = len(self._ticks) - MOST_WAITING
        if excess > 0:
            self.lose(excess)

    def lose(self, num_ticks: int) -> None:
        """Drop the oldest ticks unwritten, and count them."""
        self.drop(num_ticks)
        self.num_lost += num_ticks


def pack(ticks: list[Tick]) -> Block:
    """Group ticks by their signals: per group names and count, then rows of tick, wall seconds, values."""
    groups: dict[tuple[str, ...], array[float]] = {}
    for tick, wall, values in ticks:
        names = tuple(values)
        numbers = groups.get(names)
        if numbers is None:
            numbers = groups[names] = array("d")
        numbers.append(tick)
        numbers.append(wall)
        numbers.extend(_floats(values))
    signals = json.dumps([[list(names), len(numbers)] for names, numbers in groups.items()])
    return Block(signals, b"".join(_little(numbers).tobytes() for numbers in groups.values()))


def unpack(run: str, block: Block) -> Iterator[Reading]:
    """The readings of a block by tick.

    Raises:
        ValueError: names and numbers do not fit each other.
    """
    numbers = array("d")
    numbers.frombytes(block.payload)
    numbers = _little(numbers)
    groups: list[tuple[list[str], int]] = json.loads(block.signals)
    if sum(length for _, length in groups) != len(numbers):
        raise ValueError(f"{len(numbers)} numbers do not fit the signals {groups}")
    rows: list[tuple[int, float, list[str], array[float]]] = []
    start = 0
    for names, length in groups:
        width = len(names) + 2
        rows += [
            (int(numbers[at]), numbers[at + 1], names, numbers[at + 2 : at + width])
            for at in range(start, start + length, width)
        ]
        start += length
    rows.sort(key=lambda row: row[:2])
    for tick, wall, names, values in rows:
        for name, value in zip(names, values, strict=True):
            yield Reading(run, tick, wall, name, value)


def _floats(values: dict[str, float]) -> array[float]:
    try:
        return array("d", values.values())
    except (TypeError, ValueError, OverflowError):
        return array("d", (_float(value) for value in values.values()))


def _float(value: object) -> float:
    """A number, or NaN: what was no number was not measured."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return float("nan")


def _little(numbers: array[float]) -> array[float]:
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers
