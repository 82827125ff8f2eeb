"""Reading the ledger. Every query has its own read-only connection: a snapshot, re-read, safe in any thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from premortem.core.errors import StageError
from premortem.core.evidence import Plain
from premortem.ledger.chain import GENESIS, Block, decode, digest, link, parse, row_of
from premortem.ledger.database import connect_reader, explain
from premortem.ledger.ledger import Filters, Reading, Receipt, Row
from premortem.ledger.readings import unpack

BUSY_S = 5.0


@contextmanager
def reader(path: Path) -> Iterator[sqlite3.Connection]:
    """A read-only connection whose errors are one clear line.

    Raises:
        StageError: the ledger is missing, locked or damaged.
    """
    db = connect_reader(path, BUSY_S)
    try:
        yield db
    except sqlite3.Error as error:
        raise StageError(explain(path, error)) from None
    except (ValueError, KeyError, TypeError) as error:
        raise StageError(
            f"ledger {path}: a stored row is not what was written ({error}); run `premortem ledger verify`"
        ) from None
    finally:
        db.close()


def rows(path: Path, filters: Filters) -> Iterator[Row]:
    """The records that pass, oldest first."""
    clause, values = _where(filters)
    with reader(path) as db:
        for body, row_hash in db.execute(f"SELECT body, hash FROM chain WHERE {clause} ORDER BY seq", values):
            yield row_of(body, row_hash)


def _where(filters: Filters) -> tuple[str, list[str | int | float]]:
    clauses, values = ["event IS NOT NULL", "seq > ?"], [filters.after]
    wanted: list[str | int | float] = [*values]
    if filters.events:
        clauses.append(f"event IN ({','.join('?' * len(filters.events))})")
        wanted += filters.events
    limits: tuple[tuple[str, str | int | float | None], ...] = (
        ("entry = ?", filters.entry),
        ("incident = ?", filters.incident),
        ("run = ?", filters.run),
        ("wall >= ?", filters.since),
        ("wall <= ?", filters.until),
    )
    for clause, value in limits:
        if value is not None:
            clauses.append(clause)
            wanted.append(value)
    return " AND ".join(clauses), wanted


def latest(path: Path, event: str, entry: str) -> Row | None:
    """The newest record of an event for an entry."""
    with reader(path) as db:
        found = db.execute(
            "SELECT body, hash FROM chain WHERE event = ? AND entry = ? ORDER BY seq DESC LIMIT 1",
            (event, entry),
        ).fetchone()
        return None if found is None else row_of(*found)


def unsettled(path: Path, run: str | None) -> list[Row]:
    """Intents for which no outcome is stored, oldest first."""
    with reader(path) as db:
        found = db.execute(
            "SELECT body, hash FROM chain AS i WHERE role = 'intent' AND (?1 IS NULL OR run = ?1)"
            " AND NOT EXISTS (SELECT 1 FROM chain AS o WHERE o.settles = i.token AND o.settles <> '')"
            " ORDER BY seq",
            (run,),
        )
        return [row_of(*row) for row in found]


def contains(path: Path, receipt: Receipt) -> bool:
    """Whether the row stands there under this hash, hashed again with the hash before it."""
    with reader(path) as db:
        key = ("seq", receipt.seq) if receipt.committed else ("token", receipt.token)
        found = db.execute(f"SELECT seq, body, hash FROM chain WHERE {key[0]} = ?", (key[1],)).fetchone()
        if found is None:
            return False
        seq, body, row_hash = found
        if receipt.hash and receipt.hash != row_hash:
            return False
        return bool(link(hash_at(db, seq - 1) or "", body) == row_hash and decode(body)["seq"] == seq)


def hash_at(db: sqlite3.Connection, seq: int) -> str | None:
    """The stored hash of a row; of row 0, the beginning."""
    if seq == 0:
        return GENESIS
    found = db.execute("SELECT hash FROM chain WHERE seq = ?", (seq,)).fetchone()
    return None if found is None else str(found[0])


def document(path: Path, kind: str, key: str) -> Plain:
    """A stored document, checked against its digest in the chain.

    Raises:
        StageError: it is not what was written.
    """
    with reader(path) as db:
        found = db.execute(
            "SELECT d.body, c.body FROM documents AS d LEFT JOIN chain AS c ON c.seq = d.seq"
            " WHERE d.kind = ? AND d.key = ?",
            (kind, key),
        ).fetchone()
        if found is None:
            return None
        body, chained = found
        digests = decode(chained or "null").get("digests")
        if not isinstance(digests, dict) or digests.get(f"{kind}:{key}") != digest(body.encode()):
            raise ValueError(f"{kind} {key!r} does not match its digest in the chain")
        return parse(body)


def readings(path: Path, signal: str | None, run: str | None) -> Iterator[Reading]:
    """Stored readings in order of writing, by tick within a block."""
    with reader(path) as db:
        found = db.execute(
            "SELECT c.run, r.signals, r.payload FROM readings AS r JOIN chain AS c ON c.seq = r.seq"
            " WHERE ?1 IS NULL OR c.run = ?1 ORDER BY r.seq",
            (run,),
        )
        for of_run, signals, payload in found:
            for reading in unpack(of_run, Block(signals, payload)):
                if signal is None or reading.signal == signal:
                    yield reading
