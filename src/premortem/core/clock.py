"""Time as the kernel sees it: a tick of the workload and seconds of a clock it never reads itself."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from premortem.core.errors import ConfigError

Unit = Literal["ticks", "seconds"]

_UNITS: dict[str, tuple[Unit, float]] = {
    "tick": ("ticks", 1),
    "step": ("ticks", 1),
    "assessment": ("ticks", 1),
    "s": ("seconds", 1),
    "second": ("seconds", 1),
    "min": ("seconds", 60),
    "minute": ("seconds", 60),
    "h": ("seconds", 3600),
    "hour": ("seconds", 3600),
    "day": ("seconds", 86_400),
    "week": ("seconds", 604_800),
}
_FORM = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+?)s?\s*")


@dataclass(frozen=True, slots=True)
class Now:
    """A moment: ``tick`` counts observations of the workload, ``seconds`` is monotonic time in seconds."""

    tick: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Duration:
    """A length of time with its unit. A one-shot workload's tick is an assessment of a content hash."""

    amount: float
    unit: Unit

    @classmethod
    def parse(cls, text: str, where: str = "$") -> Duration:
        """Read ``"20 ticks"``, ``"30 s"`` or ``"1 assessment"``.

        Raises:
            ConfigError: when the text has no number or no known unit.

        >>> Duration.parse("2 min")
        Duration(amount=120.0, unit='seconds')
        """
        match = _FORM.fullmatch(text.lower())
        unit = None if match is None else _UNITS.get(match[2]) or _UNITS.get(match[2] + "s")
        if match is None or unit is None:
            raise ConfigError(
                f"{where}: found {text!r}, expected a duration with a unit such as '20 ticks', '30 s', "
                "'15 min' or '1 assessment'; write the number and the unit"
            )
        return cls(float(match[1]) * unit[1], unit[0])

    def has_passed(self, since: Now, now: Now) -> bool:
        """Whether this much time lies between two moments."""
        elapsed = now.tick - since.tick if self.unit == "ticks" else now.seconds - since.seconds
        return elapsed >= self.amount

    def times(self, factor: float) -> Duration:
        """A multiple of this duration."""
        return Duration(self.amount * factor, self.unit)

    def __str__(self) -> str:
        return f"{self.amount:g} {self.unit if self.unit == 'ticks' else 's'}"


def ticks(amount: int) -> Duration:
    """A duration in ticks."""
    return Duration(float(amount), "ticks")


def seconds(amount: float) -> Duration:
    """A duration in seconds."""
    return Duration(float(amount), "seconds")
