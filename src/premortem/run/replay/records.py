"""Logs of one record a line or an event: JSON lines, a trainer's state, TensorBoard. A record is a name → value map."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from premortem.core.errors import ConfigError
from premortem.run.replay.columns import Columns
from premortem.run.replay.log import Row, Slots, moment, number, scale_of

_HEAD = 2000
"""Records that are read before the columns are chosen: not every record names every column."""

Record = tuple[str, dict[str, Any]]
"""Where it stands, and what it says."""


@dataclass(slots=True)
class Records:
    """Any source of records; ``only`` keeps those that say this."""

    source: Iterator[Record]
    kind: str
    only: tuple[str, str] | None = None
    names: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    head: list[Record] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.head = list(itertools.islice(self._chosen(), _HEAD))
        self.names = [*dict.fromkeys(name for _, record in self.head for name in record)]

    def rows(self, columns: Columns, slots: Slots) -> Iterator[Row]:
        """Every record that holds something watched; a name that is new in mid-log is taken or noted."""
        places = {name: (slots[signal], scale_of(name)) for name, signal in columns.signals.items()}
        others = {*columns.unread, *columns.roles.values()}
        step_name, time_name, per_second = columns.step, columns.time, scale_of(columns.time)
        blank: list[float | None] = [None] * len(slots)
        head, self.head = self.head, []
        for where, record in itertools.chain(head, self._chosen()):
            row, is_watched = blank.copy(), False
            for name, value in record.items():
                place = places.get(name)
                if place is None:
                    if name in others:
                        continue
                    place = self._late(name, columns, slots, places, others)
                    if place is None:
                        continue
                found = value if type(value) is float else number(value, f"{where}, {name!r}")
                row[place[0]] = None if found is None else found * place[1]
                is_watched = True
            if is_watched:
                step = number(record.get(step_name), f"{where}, {step_name!r}") if step_name else None
                time = moment(record.get(time_name), f"{where}, {time_name!r}") if time_name else math.nan
                yield (math.nan if step is None else step), time * per_second, row

    def _late(
        self, name: str, columns: Columns, slots: Slots, places: dict[str, tuple[int, float]], others: set[str]
    ) -> tuple[int, float] | None:
        signal = columns.late(name)
        if not signal:
            others.add(name)
            return None
        places[name] = (slots[signal], scale_of(name))
        return places[name]

    def _chosen(self) -> Iterator[Record]:
        if self.only is None:
            return self.source
        name, value = self.only
        return (found for found in self.source if str(found[1].get(name)) == value)


def json_lines(lines: Iterable[str], path: str, notes: list[str]) -> Iterator[Record]:
    """One JSON object a line; NaN and Infinity are read as Python writes them.

    Raises:
        ConfigError: for a line that is no object; a last line that was cut off in writing is noted instead.
    """
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    for count, line in enumerate(lines, 1):
        try:
            record: Any = decode(line)
        except msgspec.DecodeError:
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                if not line.endswith("\n"):
                    notes.append(f"line {count} is cut off, and left out")
                    return
                shown = line.strip()[:60]
                raise ConfigError(
                    f"{path}: line {count}: found {shown!r}, expected a JSON object ({_first(error)}); "
                    "mend or delete the line"
                ) from None
        if not isinstance(record, dict):
            raise ConfigError(
                f"{path}: line {count}: found {str(record)[:60]!r}, expected a JSON object; mend the line"
            )
        yield f"{path}: line {count}", flat(record)


def listed(entries: Iterable[Any], path: str, where: str) -> Iterator[Record]:
    """A list of objects: a trainer's ``log_history``. What it says of the whole run in the end is no step of it."""
    for count, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise ConfigError(f"{path}: {where}[{count}]: found {str(entry)[:60]!r}, expected an object; mend the file")
        if "train_runtime" in entry and "train_samples_per_second" in entry:
            continue
        yield f"{path}: {where}[{count}]", flat(entry)


def flat(record: dict[str, Any]) -> dict[str, Any]:
    """Nested objects by path: ``{"train": {"loss": 1}}`` is ``{"train/loss": 1}``."""
    if not any(isinstance(value, dict) for value in record.values()):
        return record
    found: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, dict):
            found |= {f"{name}/{inner}": v for inner, v in flat(value).items()}
        else:
            found[name] = value
    return found


def _first(error: Exception) -> str:
    return str(error).splitlines()[0]
