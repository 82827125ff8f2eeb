"""What commands share for the screen: strict JSON, a console, the options that many take."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from premortem.core.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from premortem.ledger.ledger import Ledger

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing else there.")]
LedgerPath = Annotated[
    Path | None,
    typer.Option("--ledger", help="The ledger's file or folder; else $PREMORTEM_LEDGER, else .premortem/ledger.db."),
]
Register = Annotated[
    str | None, typer.Option("--register", help="A register: a YAML file, or the name of a built-in one.")
]


def emit(value: object) -> None:
    """Print strict JSON: what is not a finite number is ``null``."""
    typer.echo(json.dumps(_strict(value), indent=1, ensure_ascii=False, allow_nan=False))


def console(*, to_stderr: bool = False) -> Console:
    """A console that wraps no cell in the middle of a file name when its output is piped."""
    from rich.console import Console

    found = Console(stderr=to_stderr, highlight=False)
    return found if found.is_terminal else Console(stderr=to_stderr, highlight=False, width=160)


def table(*columns: str, title: str = "") -> Table:
    """A table in the one style of all commands; a column whose name ends in ``#`` is aligned right."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", pad_edge=False, header_style="bold")
    for column in columns:
        right = column.endswith("#")
        made.add_column(column.rstrip("#"), justify="right" if right else "left", overflow="fold")
    return made


def coloured(word: str) -> str:
    """A verdict, level or answer in its colour, as rich markup."""
    colour = _COLOURS.get(word.split(" (")[0].lower())
    return f"[{colour}]{word}[/]" if colour else word


def open_existing(path: Path | None) -> Ledger:
    """The ledger to read.

    Raises:
        ConfigError: there is none, so there is nothing to show.
        StageError: it cannot be read.
    """
    from premortem.ledger.ledger import Ledger
    from premortem.ledger.location import ledger_path

    place = ledger_path(path)
    if not place.exists():
        raise ConfigError(
            f"ledger {place}: no file was found, expected evidence of a run; "
            "run `premortem run` first, or point --ledger or PREMORTEM_LEDGER at it"
        )
    return Ledger.open(place)


def _strict(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _strict(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(inner) for inner in value]
    return value


_COLOURS = {
    "proven": "green", "recovered": "green", "go": "green", "helped": "green", "green": "green", "ok": "green",
    "active": "green", "planned": "dim", "missing": "yellow", "inconclusive": "yellow", "stale": "yellow",
    "conditional": "yellow", "yellow": "yellow", "open": "yellow", "not proven": "red", "no-go": "red", "red": "red",
    "handed over": "red", "failed": "red", "critical": "bold red", "not ok": "red", "unknown": "yellow",
    "not asked": "dim",
}  # fmt: skip
