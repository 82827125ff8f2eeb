"""Reads how far wandb's own run files are: the LevelDB log format with wandb's header, records as protobuf.

Since wandb reads its files in Go alone, this is our reader; source: wandb's ``store.go`` and the log format of LevelDB.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from wandb.proto import wandb_internal_pb2

_HEADER = 7
_BLOCK = 32_768
_FULL, _FIRST, _LAST = 1, 2, 4


def last_step(folder: Path, run_id: str) -> int:
    """The highest step of a run's history in all of its offline files; 0 where there is none."""
    steps = (
        step
        for path in sorted(folder.glob(f"wandb/offline-run-*-{run_id}/run-{run_id}.wandb"))
        for step in _steps(path)
    )
    return max(steps, default=0)


def rows(path: Path) -> Iterator[dict[str, str]]:
    """Each whole history row of a run file: JSON text by name."""
    for content in _records(path.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(content)
        if record.WhichOneof("record_type") == "history":
            yield {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}


def _steps(path: Path) -> Iterator[int]:
    return (int(row["_step"]) for row in rows(path) if "_step" in row)


def _records(data: bytes) -> Iterator[bytes]:
    """Up to the first that is not whole."""
    at, parts = _HEADER, b""
    while at + _HEADER <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < _HEADER:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + _HEADER])
        body = data[at + _HEADER : at + _HEADER + length]
        if kind == 0 or len(body) < length:
            return
        at += _HEADER + length
        parts = body if kind in (_FULL, _FIRST) else parts + body
        if kind in (_FULL, _LAST):
            yield parts
