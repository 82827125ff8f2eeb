"""Evidence for other tools: JSON lines and CSV."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Literal, TextIO

from premortem.core.evidence import Plain
from premortem.ledger.ledger import ALL, Filters, Ledger, Row

_FIELDS = (
    "seq",
    "wall",
    "run",
    "role",
    "event",
    "entry",
    "incident",
    "tick",
    "seconds",
    "data",
    "token",
    "settles",
    "hash",
)


def export(ledger: Ledger, out: TextIO, form: Literal["jsonl", "csv"], filters: Filters = ALL) -> int:
    """Write the records that pass; returns how many. Strict JSON: NaN and infinities become strings.

    Raises:
        StageError: the ledger cannot be read.
        OSError: ``out`` cannot be written.
    """
    rows = (_flat(row) for row in ledger.records(filters))
    return _export_csv(rows, out) if form == "csv" else _export_jsonl(rows, out)


def _export_jsonl(rows: Iterable[dict[str, Plain]], out: TextIO) -> int:
    num_rows = 0
    for row in rows:
        out.write(json.dumps(row, allow_nan=False) + "\n")
        num_rows += 1
    return num_rows


def _export_csv(rows: Iterable[dict[str, Plain]], out: TextIO) -> int:
    import csv  # opening a ledger need not wait for it

    sheet = csv.DictWriter(out, _FIELDS, lineterminator="\n")
    sheet.writeheader()
    num_rows = 0
    for row in rows:
        sheet.writerow(row | {"data": json.dumps(row["data"])})
        num_rows += 1
    return num_rows


def _flat(row: Row) -> dict[str, Plain]:
    record = row.record
    return {
        "seq": row.seq,
        "wall": row.wall,
        "run": row.run,
        "role": row.role,
        "event": record.event,
        "entry": record.entry,
        "incident": record.incident,
        "tick": record.tick,
        "seconds": _strict(record.seconds),
        "data": _strict(record.data),
        "token": row.token,
        "settles": row.settles,
        "hash": row.hash,
    }


def _strict(value: Plain) -> Plain:
    """The value without numbers that JSON does not know."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, list):
        return [_strict(item) for item in value]
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    return value
