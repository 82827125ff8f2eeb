"""How far a sink has a spool: written after a send is certain, durable, checked when it is read."""

from __future__ import annotations

from pathlib import Path

import msgspec

from premortem.stages.tracking.folder import put
from premortem.stages.tracking.record import checked, sealed


class Cursor(msgspec.Struct, frozen=True):
    """Everything up to ``sent`` is in the tracker, surely.

    Attributes:
        sent: sequence number.
        offset: the byte in the spool after that record.
        saved: what the backend wants to find again, such as the id of its run.
        finished: the tracker was told that the run ended.
        num_rejected: records that the tracker will never take.
    """

    sent: int = 0
    offset: int = 0
    saved: dict[str, str | int] = {}
    finished: bool = False
    num_rejected: int = 0


def load(path: Path) -> Cursor:
    """The cursor at ``path``; where it is missing or damaged all is doubtful from the start, and asked for again."""
    try:
        body = checked(path.read_bytes().rstrip(b"\n"))
        return Cursor() if body is None else msgspec.json.decode(body, type=Cursor)
    except (OSError, msgspec.DecodeError):
        return Cursor()


def store(path: Path, cursor: Cursor) -> None:
    """Keep it, through a power loss too; raises ``OSError``."""
    put(path, sealed(msgspec.json.encode(cursor)), durable=True)
