"""CSV and its kin: any delimiter, a header, one row an observation."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter

from premortem.core.errors import ConfigError
from premortem.run.replay.columns import Columns
from premortem.run.replay.log import MISSING, Row, Slots, moment, number, scale_of

_DELIMITERS = (",", "\t", ";", "|", " ")


@dataclass(slots=True)
class Sheet:
    """A sheet whose header was read; ``only`` keeps the rows that have this text in this column."""

    stream: Iterator[str]
    path: str
    only: tuple[str, str] | None = None
    kind: str = "CSV"
    names: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    delimiter: str = ","
    line: int = 0

    def __post_init__(self) -> None:
        header = self._line()
        while header.startswith("#") and not self._is_header(header):
            header = self._line()
        header = header.lstrip("#").strip("\r\n ") if header.startswith("#") else header.rstrip("\r\n")
        self.delimiter = max(_DELIMITERS, key=lambda d: len(_split(header, d)) if d in header else 0)
        self.names = [name.strip() for name in _split(header, self.delimiter)]
        if not header.strip():
            raise ConfigError(f"{self.path}: found no line of text, expected a header and rows; give a recorded log")
        if all(_is_number(name) for name in self.names):
            raise ConfigError(
                f"{self.path}: line {self.line}: found numbers, expected the names of the columns; add a header such "
                "as step,loss,grad_norm"
            )

    def rows(self, columns: Columns, slots: Slots) -> Iterator[Row]:
        """Every row, fast where all its cells are figures."""
        heads = [name for name in (columns.step, columns.time) if name]
        order = [self._place(name) for name in (*heads, *columns.signals)]
        in_front = [slots[signal] for signal in columns.signals.values()] == [*range(len(columns.signals))]
        is_plain = in_front and all(scale_of(name) == 1.0 for name in (columns.time, *columns.signals))
        missing: list[float | None] = [None] * (len(slots) - len(columns.signals))
        num_heads, has_step, has_time = len(heads), bool(columns.step), bool(columns.time)
        width = len(self.names)
        get, nan = _getter(order), math.nan
        reader, only = csv.reader(self.stream, delimiter=self.delimiter), self._only()
        try:
            for cells in reader:
                if only is not None and (len(cells) <= only[0] or cells[only[0]] != only[1]):
                    continue
                if is_plain and len(cells) == width:
                    try:
                        row: list[float | None] = [*map(float, get(cells))]
                    except (ValueError, IndexError):
                        pass
                    else:
                        step = row[0] if has_step else nan
                        time = row[num_heads - 1] if has_time else nan
                        del row[:num_heads]
                        row += missing
                        yield step, time, row  # type: ignore[misc]
                        continue
                found = self._slow(cells, self.line + reader.line_num, columns, slots)
                if found is not None:
                    yield found
        except csv.Error as error:
            where = f"{self.path}: line {self.line + reader.line_num}"
            raise ConfigError(f"{where}: {error}; is this a CSV file?") from None

    def _slow(self, cells: Sequence[str], line: int, columns: Columns, slots: Slots) -> Row | None:
        """A row with empty, missing or unusual cells; ``None`` for one that is about something else."""
        where = f"{self.path}: line {line}"
        if not cells:
            return None
        if len(cells) != len(self.names):
            if len(cells) < len(self.names) and next(self.stream, None) is None:
                self.notes.append(f"line {line} is cut off: {len(cells)} of {len(self.names)} cells; left out")
                return None
            raise ConfigError(
                f"{where}: found {len(cells)} cells, expected {len(self.names)} as in the header; mend the line"
            )
        row: list[float | None] = [None] * len(slots)
        for name, signal in columns.signals.items():
            value = number(cells[self._place(name)], f"{where}, column {name!r}")
            row[slots[signal]] = None if value is None else value * scale_of(name)
        if all(value is None for value in row) and self._is_about_else(cells, columns):
            return None
        step = number(cells[self._place(columns.step)], f"{where}, column {columns.step!r}") if columns.step else None
        time = (
            moment(cells[self._place(columns.time)], f"{where}, column {columns.time!r}") if columns.time else math.nan
        )
        return (math.nan if step is None else step, time * scale_of(columns.time), row)

    def _is_about_else(self, cells: Sequence[str], columns: Columns) -> bool:
        """A row of a validation, say: none of its cells is watched, and others are filled."""
        return any(cells[self._place(name)].strip().lower() not in MISSING for name in columns.unread)

    def _place(self, name: str) -> int:
        at = self.names.index(name)
        if name in self.names[at + 1 :]:
            raise ConfigError(f"{self.path}: found the column {name!r} twice, expected it once; rename one")
        return at

    def _only(self) -> tuple[int, str] | None:
        if self.only is None:
            return None
        name, value = self.only
        if name not in self.names:
            raise ConfigError(
                f"--only {name}={value}: found no column {name!r}, expected one of {', '.join(self.names)}"
            )
        return self._place(name), value

    def _line(self) -> str:
        self.line += 1
        return next(self.stream, "")

    def _is_header(self, comment: str) -> bool:
        """A header may be written as a comment, as numpy does: ``# step,loss``."""
        words = comment.lstrip("#").strip()
        return any(len(_split(words, d)) > 1 for d in _DELIMITERS[:4] if d in words)


def _getter(order: list[int]) -> Callable[[list[str]], tuple[str, ...]]:
    if len(order) > 1:
        return itemgetter(*order)
    return lambda cells: (cells[order[0]],)


def _split(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return not text
    return True
