"""What a reader of logs gives: rows, one at a time, in the order in which they stand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NoReturn, Protocol

from premortem.core.errors import ConfigError
from premortem.run.replay.columns import Columns, normal

Row = tuple[float, float, list[float | None]]
"""Step and time (s), NaN where there is none, and one value a slot; ``None`` is missing."""

Slots = dict[str, int]
"""Signal → its place in a row."""

MISSING = frozenset({"", "null", "none", "n/a", "na", "-", "--", "?"})


class Log(Protocol):
    """One recorded run. ``kind`` is its format; ``names`` are its columns; ``notes`` what was odd in it."""

    kind: str
    names: list[str]
    notes: list[str]

    def rows(self, columns: Columns, slots: Slots) -> Iterator[Row]:
        """Every row. Raises ``ConfigError`` with the line for what cannot be read."""
        ...


def scale_of(name: str) -> float:
    """Milliseconds become seconds, by the column's name."""
    return 1e-3 if normal(name).endswith("_ms") else 1.0


def number(value: object, where: str) -> float | None:
    """A figure as it stands in a log; ``None`` is missing, NaN and infinities are what they say.

    Raises:
        ConfigError: for what is no figure, with its place.
    """
    if value is None or isinstance(value, float):
        return value
    if isinstance(value, int):  # True and False too: flags are 1 and 0
        return float(value) if abs(value) < 1 << 1023 else math.inf
    text = str(value).strip()
    if text.lower() in MISSING:
        return None
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return float(text.replace(",", "."))  # some tools write 0,25
    except ValueError:
        _no_figure(value, where)


def moment(value: object, where: str) -> float:
    """A time in seconds: a figure, or a date and time by ISO 8601; NaN is missing."""
    try:
        found = number(value, where)
        return math.nan if found is None else found
    except ConfigError:
        pass
    try:
        read = datetime.fromisoformat(str(value).strip())
    except ValueError:
        _no_figure(value, where)
    return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()


def _no_figure(value: object, where: str) -> NoReturn:
    shown = repr(value if len(str(value)) < 60 else str(value)[:57] + "...")
    raise ConfigError(f"{where}: found {shown}, expected a number; mend the line, or leave the cell empty")
