"""Registers load, and their active entries bind to the risks that they name."""

from __future__ import annotations

from collections.abc import Iterable

from premortem.core.errors import ConfigError
from premortem.registers.load import builtin_names, load_register
from premortem.run.bind import bind_ladder, bind_risks
from premortem.run.preflight.row import Asked, Row


def rows(asked: Asked) -> Iterable[Row]:
    """The register of the run first, then those in the box."""
    return [_row(name) for name in dict.fromkeys((asked.register, *builtin_names()))]


def _row(name: str) -> Row:
    what, expected = f"register {name}", "loads, and every active entry binds"
    try:
        entries = load_register(name).entries
        for i, entry in enumerate(entries):
            if entry.status == "active":
                where = f"{name}: $.entries[{i}]"
                bind_ladder(entry, bind_risks(entry, where), where)
    except ConfigError as error:
        return Row(what, "not ok", str(error).splitlines()[0], expected, f"premortem register validate {name}")
    active = sum(entry.status == "active" for entry in entries)
    return Row(what, "ok", f"{len(entries)} entries, {active} active", expected)
