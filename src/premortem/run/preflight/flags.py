"""Flags that a register writes down. Nothing evaluates them yet, and that is what is said."""

from __future__ import annotations

from collections.abc import Iterable

from premortem.registers.load import load_register
from premortem.run.preflight.row import Asked, Row


def rows(asked: Asked) -> Iterable[Row]:
    """What the register wants switched; no flag is read or turned by this version."""
    flags = load_register(asked.register).flags
    names = ", ".join(flag.name for flag in flags) or "none"
    return [Row("flags", "not asked", f"{asked.register} names {names}; this version neither reads nor turns flags")]
