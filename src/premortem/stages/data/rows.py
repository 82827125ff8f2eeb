"""The first rows of a set, really decoded, and what is wrong with them.

Covered: parquet, arrow, jsonl, json (a list of rows, or a mapping with one), csv, each also as .gz where it is text.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import itertools
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from premortem.stages.data.refusal import Refused
from premortem.stages.data.source import Source

Row = dict[str, Any]
FORMATS = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
}
NUM_ROWS = 10
_BATCH = 1024


def format_of(path: Path) -> str:
    """The builder of `datasets` that reads the file, by its suffix; empty where none does."""
    suffixes = [suffix for suffix in path.suffixes if suffix != ".gz"]
    return FORMATS.get(suffixes[-1].lower(), "") if suffixes else ""


def first_rows(paths: Sequence[Path], num_rows: int = NUM_ROWS) -> list[Row]:
    """Decode the first rows; raises Refused (damaged) where the files cannot be."""
    rows: list[Row] = []
    for path in paths:
        with _decoding(path):
            rows += itertools.islice(_rows(path), num_rows - len(rows))
        if len(rows) >= num_rows:
            break
    return rows


def decode_all(paths: Sequence[Path]) -> int:
    """Decode every row, for files whose hash nobody named; returns how many. Raises Refused (damaged)."""
    num_rows = 0
    for path in paths:
        with _decoding(path):
            num_rows += sum(1 for _ in _rows(path))
    return num_rows


@contextlib.contextmanager
def _decoding(path: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, OSError, EOFError, csv.Error, KeyError, RecursionError, zlib.error) as error:
        # what pyarrow raises is a ValueError or an OSError too
        said = " ".join(str(error).split())[:200]
        raise Refused("damaged", f"{path.name}: cannot be decoded: {said or type(error).__name__}") from error


def check_rows(rows: Sequence[Row], source: Source) -> None:
    """Hold the rows against what the source says of them; raises Refused (damaged)."""
    if not rows:
        raise Refused("damaged", f"{source}: it has no rows")
    for column in source.columns:
        without = next((i for i, row in enumerate(rows) if column not in row), None)
        if without is not None:
            found = ", ".join(map(repr, list(rows[without])[:12]))
            raise Refused("damaged", f"{source}: row {without} has no column {column!r}; found {found}")
        if all(_is_empty(row[column]) for row in rows):
            raise Refused("damaged", f"{source}: column {column!r} is empty in the first {len(rows)} rows")


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, str | list | dict) and not value)


def _rows(path: Path) -> Iterator[Row]:
    match format_of(path):
        case "parquet":
            return _parquet(path)
        case "arrow":
            return _arrow(path)
        case "csv":
            return _csv(path)
        case "json":
            return _json(path)
        case _:
            raise ValueError(f"no reader for its suffix {''.join(path.suffixes) or '(none)'}")


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow.parquet  # type: ignore[import-untyped]

    with pyarrow.parquet.ParquetFile(path) as table:
        for batch in table.iter_batches(batch_size=_BATCH):
            yield from batch.to_pylist()


def _arrow(path: Path) -> Iterator[Row]:
    from datasets import Dataset

    for row in Dataset.from_file(str(path)):
        yield dict(row)


def _text(path: Path) -> io.TextIOBase:
    opener = gzip.open if path.suffix == ".gz" else open
    return opener(path, "rt", encoding="utf-8", newline="")


def _csv(path: Path) -> Iterator[Row]:
    with _text(path) as stream:
        for row in csv.DictReader(stream, strict=True):
            if None in row or None in row.values():
                raise ValueError(f"row of {len(row)} fields where the header has another number")
            yield row


def _json(path: Path) -> Iterator[Row]:
    if not any(suffix in (".jsonl", ".ndjson") for suffix in path.suffixes):
        with _text(path) as stream:
            content = stream.read()
        try:
            yield from _listed(json.loads(content))
            return
        except ValueError:
            pass  # rows by line under the name .json are common
    with _text(path) as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield _mapping(json.loads(line), f"line {number}")


def _listed(content: object) -> list[Row]:
    if isinstance(content, dict):
        lists = [value for value in content.values() if isinstance(value, list)]
        content = lists[0] if len(lists) == 1 else [content]
    if not isinstance(content, list):
        raise ValueError("no list of rows")
    return [_mapping(row, f"row {i}") for i, row in enumerate(content)]


def _mapping(row: object, where: str) -> Row:
    if not isinstance(row, dict):
        raise ValueError(f"{where} is no mapping")
    return row
