"""Pressure stall information: which share of the time tasks waited for memory, as the kernel counts it.

Source: kernel documentation, accounting/psi.rst. None where the kernel has none (before 4.20, or switched off).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from premortem.machine.files import read_bytes

_LINE = re.compile(rb"^(some|full) avg10=([\d.]+) avg60=([\d.]+) avg300=([\d.]+) total=(\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Pressure:
    """Shares of the last 10 s and 60 s, 0 to 1, in which some task or all tasks waited; seconds in all."""

    some_10s: float
    some_60s: float
    some_seconds: float
    full_10s: float = 0.0
    full_60s: float = 0.0
    full_seconds: float = 0.0


def pressure(path: Path | str = "/proc/pressure/memory") -> Pressure | None:
    """What a file of that form says: of the machine, or `memory.pressure` of a version 2 group."""
    found = {kind: (float(ten) / 100, float(sixty) / 100, int(total) / 1e6)
             for kind, ten, sixty, _, total in _LINE.findall(read_bytes(path) or b"")}  # fmt: skip
    if b"some" not in found:
        return None
    return Pressure(*found[b"some"], *found.get(b"full", (0.0, 0.0, 0.0)))
