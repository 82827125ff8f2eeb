"""Small sets, and a patience that fits tests."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from premortem.stages.data.transport import Patience

ROWS = [{"question": f"what is {i} + {i}?", "answer": str(2 * i)} for i in range(50)]
QUICK = Patience(attempts=3, first_wait_s=0.01, longest_wait_s=0.05, total_s=20, read_s=0.3)


def write_parquet(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def write_lines(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)
