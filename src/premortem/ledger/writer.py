"""The one that writes: transactions, the spool for when they fail, the head file after each event.

Covered: kill -9 at any point, power loss (synchronous FULL), a full or read-only disk, a lock held by another
process, several processes and threads, fork, a database file moved away underneath. Not covered: someone who
rewrites the whole chain and the head file; network file systems, whose locks SQLite cannot trust.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from premortem.core.errors import PremortemError, StageError
from premortem.ledger.chain import Draft, columns, link
from premortem.ledger.database import connect, explain, rollback
from premortem.ledger.flusher import Flusher, abandon, enlist
from premortem.ledger.head import START, Anchor, Head
from premortem.ledger.ledger import Health, Receipt
from premortem.ledger.query import hash_at
from premortem.ledger.readings import ReadingsBuffer, pack
from premortem.ledger.spool import Spool

_FAILURES = (sqlite3.Error, OSError, PremortemError)
_IMPATIENT_S = 0.1
_FULL_BUFFER = 4096
_INSERT = (
    "INSERT INTO chain(seq, role, run, wall, event, entry, incident, token, settles, body, hash)"
    " VALUES(:seq, :role, :run, :wall, :event, :entry, :incident, :token, :settles, :body, :hash)"
)


class Writer:
    """Writes one ledger file for one process.

    Raises:
        ConfigError: a folder, another program's database, or a newer schema.
        StageError: it cannot be opened now.
    """

    def __init__(self, path: Path, run: str, busy_s: float) -> None:
        self.path = path
        self.run = run
        self.head = Head(path.with_suffix(".head"))
        self._busy_s = busy_s
        self._begin()
        self._spool.load()
        self._connected()
        enlist(self)
        self.flush()

    def _begin(self) -> None:
        """What belongs to one process: a forked child starts over with it."""
        self.lock = threading.RLock()
        self._db: sqlite3.Connection | None = None
        self._file = (0, 0)
        self._fault = ""
        self._seed = os.urandom(8).hex()
        self._num_tokens = 0
        self._buffer = ReadingsBuffer()
        self._spool = Spool(self.path)
        self._flusher = Flusher(self)

    @property
    def waiting(self) -> list[Draft]:
        """Drafts in the spool, oldest first."""
        with self.lock:
            return list(self._spool.waiting)

    def new_token(self) -> str:
        """A name for a draft, never given twice."""
        with self.lock:
            self._num_tokens += 1
            return f"{self._seed}-{self._num_tokens}"

    def write(self, draft: Draft) -> Receipt:
        """Commit what waits and then the draft, or let the draft wait too. A failing disk raises nothing."""
        with self.lock:
            try:
                receipt = self._commit([*self._spool.waiting, draft], durable=True)
            except _FAILURES as error:
                self._fail(error)
                self._spool.keep(draft)
                self._flusher.start()
                return Receipt(0, "", committed=False, token=draft.token)
            if self._spool.waiting:
                self._spool.release()
            return receipt

    def note(self, tick: int, values: Mapping[str, float]) -> None:
        """Buffer the values of a tick. This is the hot path."""
        waiting = self._buffer.note(tick, values)
        if waiting == 1:
            self._flusher.start()
        elif waiting == _FULL_BUFFER:
            self._flusher.wake()
        elif self._flusher.is_missing:
            self._flusher.flush_here()

    def flush(self) -> None:
        """Write what is spooled, then the readings, as far as possible."""
        with self.lock:
            try:
                if self._spool.waiting:
                    self._commit(self._spool.waiting, durable=True)
                    self._spool.release()
                self._flush_readings()
            except _FAILURES as error:
                self._fail(error)
                self._buffer.shed()

    def _flush_readings(self) -> None:
        ticks = self._buffer.peek()
        if not ticks:
            return
        try:
            block = pack(ticks)
        except (TypeError, ValueError, OverflowError) as error:
            # What cannot be packed now never can: kept, it would hold up all later readings.
            self._buffer.lose(len(ticks))
            raise StageError(f"ledger {self.path}: {len(ticks)} ticks of readings are lost: {error}") from None
        draft = Draft(ticks[-1][1], self.run, "readings", self.new_token(), block=block)
        self._commit([draft], durable=False)
        self._buffer.drop(len(ticks))

    def health(self) -> Health:
        """How writing goes."""
        with self.lock:
            return Health(self._fault, len(self._spool.waiting), self._spool.home, self._buffer.num_lost)

    def close(self) -> None:
        """Flush, anchor the readings too, and let go of the files. Writing later opens them again."""
        self._flusher.stop()
        with self.lock:
            self.flush()
            with suppress(sqlite3.Error):
                self._anchor_readings()
            self._disconnect()

    def start_over(self) -> None:
        """In a forked child: leave the parent's connection, buffers and spool to the parent."""
        if self._db is not None:
            abandon(self._db)
        self.head.close()
        self._begin()

    def _connected(self) -> sqlite3.Connection:
        """The connection; a new one where the file was moved away: rows in it would be lost unseen."""
        if self._db is not None and self._file != _identity(self.path):
            self._disconnect()
        if self._db is None:
            patience_s = _IMPATIENT_S if self._fault else self._busy_s
            self._db = connect(self.path, patience_s, self.head.create)
            self._file = _identity(self.path)
        return self._db

    def _disconnect(self) -> None:
        self.head.close()
        if self._db is not None:
            db, self._db = self._db, None
            with suppress(sqlite3.Error):
                db.close()

    def _fail(self, error: Exception) -> None:
        self._fault = explain(self.path, error)
        code = getattr(error, "sqlite_errorcode", 0)
        if code & 0xFF != sqlite3.SQLITE_BUSY:
            self._disconnect()

    def _commit(self, drafts: list[Draft], *, durable: bool) -> Receipt:
        """One transaction for all drafts; returns the last one's receipt. A stored token is not stored again."""
        db = self._connected()
        # After a fault the watched loop must not wait the full time again and again.
        db.execute(f"PRAGMA busy_timeout={round(1000 * (_IMPATIENT_S if self._fault else self._busy_s))}")
        db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
        db.execute("BEGIN IMMEDIATE")
        try:
            last = _last(db)
            receipt = Receipt(last.seq, last.hash)
            for draft in drafts:
                receipt, last = _place(db, draft, last)
            db.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                rollback(db)
            raise
        self._fault = self._anchor(db, last) if durable else ""
        return receipt

    def _anchor(self, db: sqlite3.Connection, last: Anchor) -> str:
        try:
            return self.head.advance(last, partial(hash_at, db))
        except sqlite3.Error as error:
            return explain(self.path, error)

    def _anchor_readings(self) -> None:
        """Readings are committed without a sync; the head may name them only once they are on the disk."""
        if self._db is not None and self._file == _identity(self.path):
            busy, in_log, done = self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if not busy and in_log == done:
                self._anchor(self._db, _last(self._db))


def _identity(path: Path) -> tuple[int, int]:
    """Device and inode; zeros where there is no file."""
    try:
        found = os.stat(path)
    except OSError:
        return (0, 0)
    return (found.st_dev, found.st_ino)


def _last(db: sqlite3.Connection) -> Anchor:
    found = db.execute("SELECT seq, hash FROM chain ORDER BY seq DESC LIMIT 1").fetchone()
    return START if found is None else Anchor(*found)


def _place(db: sqlite3.Connection, draft: Draft, last: Anchor) -> tuple[Receipt, Anchor]:
    """Give the draft its place after the last row."""
    stored = db.execute("SELECT seq, hash FROM chain WHERE token = ?", (draft.token,)).fetchone()
    if stored is not None:
        return Receipt(stored[0], stored[1], token=draft.token), last
    seq = last.seq + 1
    body = draft.body(seq)
    row_hash = link(last.hash, body)
    db.execute(_INSERT, columns(body) | {"body": body, "hash": row_hash})
    for document in draft.documents:
        values = (document.kind, document.key, seq, document.body)
        db.execute("INSERT OR REPLACE INTO documents(kind, key, seq, body) VALUES(?, ?, ?, ?)", values)
    if draft.block is not None:
        values_of = (seq, draft.block.signals, draft.block.payload)
        db.execute("INSERT INTO readings(seq, signals, payload) VALUES(?, ?, ?)", values_of)
    return Receipt(seq, row_hash, token=draft.token), Anchor(seq, row_hash)
