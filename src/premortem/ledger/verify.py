"""Walk the whole ledger and say where it is not what was written."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from pathlib import Path

from premortem.core.evidence import Plain
from premortem.ledger.chain import GENESIS, block_digest, columns, decode, digest, link
from premortem.ledger.head import Anchor, Head
from premortem.ledger.ledger import Problem, VerifyReport
from premortem.ledger.query import hash_at, reader

_MOST_KEPT = 20
_COLUMNS = ("seq", "role", "run", "wall", "event", "entry", "incident", "token", "settles")


@dataclass(slots=True)
class _Walk:
    """Where the walk stands."""

    seq: int = 0
    hash: str = GENESIS
    num_rows: int = 0
    num_problems: int = 0
    problems: list[Problem] = field(default_factory=list)
    documents: dict[str, tuple[int, str]] = field(default_factory=dict)
    blocks: dict[int, str] = field(default_factory=dict)

    def found(self, seq: int | None, text: str) -> None:
        self.num_problems += 1
        if len(self.problems) < _MOST_KEPT:
            self.problems.append(Problem(seq, text))


def verify(path: Path, head: Head) -> VerifyReport:
    """Check every row's hash, place and columns, every block and document, the head, and the file itself.

    Raises:
        StageError: the ledger cannot be read at all (missing, locked, not a database).
    """
    # The head is read first: rows that another process adds meanwhile are then after it, and no false alarm.
    anchor = head.read()
    walk = _Walk()
    with reader(path) as db:
        db.execute("BEGIN")
        try:
            _check_rows(db, walk)
            _check_blocks(db, walk)
            _check_documents(db, walk)
            _check_head(db, walk, anchor, head.path)
            _check_file(db, walk)
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_NOTADB):
                raise
            walk.found(walk.seq + 1, f"the file is damaged after row {walk.seq}: {error}")
    return VerifyReport(walk.num_rows, anchor.seq if anchor else None, tuple(walk.problems), walk.num_problems)


def _check_rows(db: sqlite3.Connection, walk: _Walk) -> None:
    for *cells, body, row_hash in db.execute(f"SELECT {', '.join(_COLUMNS)}, body, hash FROM chain ORDER BY seq"):
        seq = cells[0]
        walk.num_rows += 1
        if seq != walk.seq + 1:
            walk.found(walk.seq + 1, f"rows {walk.seq + 1} to {seq - 1} are missing")
        elif problem := _row_problem(walk.hash, cells, body, row_hash):
            walk.found(seq, problem)
        else:
            _remember(walk, seq, body)
        walk.seq, walk.hash = seq, row_hash if isinstance(row_hash, str) else ""


def _row_problem(previous: str, cells: list[Plain], body: object, row_hash: object) -> str:
    if not isinstance(body, str) or link(previous, body) != row_hash:
        return "content and hash do not fit the row before it"
    try:
        expected = columns(body)
    except ValueError as error:
        return f"content is {error}"
    for name, cell in zip(_COLUMNS, cells, strict=True):
        if cell != expected[name]:
            return f"column {name} says {cell!r}, the hashed content {expected[name]!r}"
    return ""


def _remember(walk: _Walk, seq: int, body: str) -> None:
    digests = decode(body).get("digests")
    for name, value in digests.items() if isinstance(digests, dict) else ():
        if name == "readings":
            walk.blocks[seq] = str(value)
        else:
            walk.documents[name] = (seq, str(value))


def _check_blocks(db: sqlite3.Connection, walk: _Walk) -> None:
    for seq, signals, payload in db.execute("SELECT seq, signals, payload FROM readings ORDER BY seq"):
        expected = walk.blocks.pop(seq, None)
        if not isinstance(signals, str) or not isinstance(payload, bytes):
            walk.found(seq, "the block of readings is of another type than was written")
        elif block_digest(signals, payload) != expected:
            walk.found(seq, "the block of readings does not match its digest in the chain")
    for seq in walk.blocks:
        walk.found(seq, "the block of readings is missing")


def _check_documents(db: sqlite3.Connection, walk: _Walk) -> None:
    for kind, key, seq, body in db.execute("SELECT kind, key, seq, body FROM documents"):
        name = f"{kind}:{key}"
        if not isinstance(body, str) or walk.documents.pop(name, None) != (seq, digest(body.encode())):
            walk.found(seq, f"{name} does not match its digest in the chain")
    for name, (seq, _) in walk.documents.items():
        walk.found(seq, f"{name} is missing")


def _check_head(db: sqlite3.Connection, walk: _Walk, anchor: Anchor | None, path: Path) -> None:
    if anchor is None:
        walk.found(None, f"head file {path} is missing or unreadable: rows cut off the end would not show")
    elif anchor.seq > walk.seq:
        walk.found(walk.seq + 1, f"rows {walk.seq + 1} to {anchor.seq} were cut off the end")
    elif hash_at(db, anchor.seq) != anchor.hash:
        walk.found(anchor.seq, "the row has another hash than the head file")


def _check_file(db: sqlite3.Connection, walk: _Walk) -> None:
    for (line,) in db.execute("PRAGMA integrity_check(5)"):
        if line != "ok":
            walk.found(None, f"SQLite's integrity check: {line}")
