"""A small process whose health truly depends on its settings, under a clock that only the caller turns.

``severity`` follows a first-order law: while the fault is on and nothing that mends it is truly in force it climbs
towards 1, otherwise it decays to 0. At 0.5 the plant is ill, and every sick signal shows it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from premortem.core.action import Control, Override, OverrideStack, Owner, Setting
from premortem.core.signal import Signal

Series = Callable[[int], float | None]
"""The value of a signal at a tick."""

_RATE = 0.3
ILL = 0.5


class Lever:
    """A control of the plant: what is truly in force, and whether a one-shot request was truly done."""

    def __init__(self, base: Setting) -> None:
        self.stack = OverrideStack(base)
        self.turned = 0

    def turn(self, owner: Owner, override: Override) -> None:
        """Put it in force."""
        self.stack.put(owner, override)
        self.turned += 1

    def undo(self, owner: Owner) -> None:
        """Take it away."""
        self.stack.remove(owner)

    def read(self) -> Setting:
        """What is in force."""
        return self.stack.effective


@dataclass(slots=True)
class Plant:
    """One process. ``cures`` are rung names: the fault has no effect while one of them is truly in force.

    A cure that is a one-shot request works for good once it was done (``done``). A cure named in ``harms`` instead
    of ``cures`` does nothing.
    """

    healthy: Mapping[str, Series]
    sick: Mapping[str, Series]
    levers: Mapping[str, Lever]
    cures: frozenset[str] = frozenset()
    one_shot: frozenset[str] = frozenset()
    fault_on: bool = False
    severity: float = 0.0
    residue: float = 1.0
    """How strong the fault is while nothing mends it; above 0.5 it makes ill."""
    done: set[str] = field(default_factory=set)
    tick: int = 0
    silent: set[str] = field(default_factory=set)

    @property
    def is_ill(self) -> bool:
        """The truth about its health."""
        return self.severity >= ILL

    def in_force(self, rung: str) -> bool:
        """The truth about a rung's setting, whoever put it there."""
        return any(o.rung == rung for lever in self.levers.values() for o in lever.stack.owners)

    def owners(self) -> set[Owner]:
        """Every override that is truly in force."""
        return {o for lever in self.levers.values() for o in lever.stack.owners}

    def carried_out(self, rung: str) -> None:
        """A one-shot request was truly done."""
        self.done.add(rung)

    @property
    def is_mended(self) -> bool:
        """Whether a cure is truly at work."""
        return any(c in self.done if c in self.one_shot else self.in_force(c) for c in self.cures)

    def advance(self) -> None:
        """One tick of the process."""
        self.tick += 1
        target = self.residue if self.fault_on and not self.is_mended else 0.0
        self.severity += _RATE * (target - self.severity)

    def row(self, signals: tuple[Signal, ...], witnesses: Mapping[str, str]) -> list[float | None]:
        """One observation row in slot order."""
        shown = {signal: control for control, signal in witnesses.items()}
        return [self._value(signal.name, shown.get(signal.name)) for signal in signals]

    def _value(self, name: str, control: str | None) -> float | None:
        if name in self.silent:
            return None
        if control is not None:
            seen = self.levers[control].stack.effective
            return seen if isinstance(seen, float | int) else None
        series = self.sick if self.is_ill and name in self.sick else self.healthy
        return series[name](self.tick)


@dataclass(slots=True)
class PlantWorkload:
    """The plant behind the seam that every workload has."""

    kind: str
    signals: tuple[Signal, ...]
    controls: Mapping[str, Control]
    witnesses: Mapping[str, str] = field(default_factory=dict)
    conditions: Mapping[str, Callable[[], bool | None]] = field(default_factory=dict)


def wavy(level: float, width: float = 0.01) -> Series:
    """A level with a little deterministic noise, the same in every run; shape: one number a tick."""
    return lambda tick: level * (1.0 + width * math.sin(2.399963 * tick) * math.cos(0.7 * tick))


def steady(level: float) -> Series:
    """A constant."""
    return lambda tick: level
