"""Who writes the batches: JSON lines of payments, a file an hour, and what can go wrong on that side."""

from __future__ import annotations

import json
import random
from pathlib import Path

ROWS = 200
Row = dict[str, object]


def write(path: Path, hour: int, fault: str) -> None:
    """One batch, as one file."""
    rng = random.Random(hour)
    rows: list[Row] = [
        {"id": hour * ROWS + n, "user": rng.randrange(50), "amount": round(rng.uniform(1, 90), 2),
         "at": 3600 * hour + rng.randrange(3600)} for n in range(ROWS)
    ]  # fmt: skip
    FAULTS[fault](rows, hour)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _renamed(rows: list[Row], hour: int) -> None:
    for row in rows:
        row["amount_cents"] = str(row.pop("amount"))


def _nulls(rows: list[Row], hour: int) -> None:
    for row in rows[: ROWS // 5]:
        row["amount"] = None


def _sent_twice(rows: list[Row], hour: int) -> None:
    for row in rows[: ROWS // 4]:
        row["id"] = int(str(row["id"])) - ROWS // 4  # the end of the batch before


def _late(rows: list[Row], hour: int) -> None:
    for row in rows[: ROWS // 4]:
        row["at"] = 3600 * (hour - 30)


FAULTS = {
    "": lambda rows, hour: None,
    "amount renamed to amount_cents": _renamed,
    "a burst of nulls": _nulls,
    "rows sent twice": _sent_twice,
    "rows a day late": _late,
}
