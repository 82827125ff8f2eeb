"""The SQLite file: its schema, how it is opened, and what its errors mean for the user."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from premortem.core.errors import ConfigError, PremortemError, StageError

VERSION = 1
_APPLICATION_ID = 0x504D4C47  # "PMLG": tells a ledger from another program's database
_SCHEMA = """
CREATE TABLE IF NOT EXISTS chain(
  seq INTEGER PRIMARY KEY, role TEXT NOT NULL, run TEXT NOT NULL, wall REAL NOT NULL,
  event TEXT, entry TEXT, incident INTEGER,
  token TEXT NOT NULL UNIQUE, settles TEXT NOT NULL, body TEXT NOT NULL, hash TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS chain_by_entry ON chain(entry, event);
CREATE INDEX IF NOT EXISTS chain_by_settled ON chain(settles) WHERE settles <> '';
CREATE TABLE IF NOT EXISTS readings(seq INTEGER PRIMARY KEY, signals TEXT NOT NULL, payload BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS documents(
  kind TEXT NOT NULL, key TEXT NOT NULL, seq INTEGER NOT NULL, body TEXT NOT NULL, PRIMARY KEY(kind, key));
"""
_CAUSES: dict[int, str] = {
    sqlite3.SQLITE_FULL: "the disk is full; free space there",
    sqlite3.SQLITE_IOERR: "the disk failed or is full; check it and free space there",
    sqlite3.SQLITE_READONLY: "it is read-only; make it writable, or name another place with PREMORTEM_LEDGER",
    sqlite3.SQLITE_BUSY: "another process holds it locked; end that process, or use another PREMORTEM_LEDGER",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; the folder must exist, have space and be writable",
    sqlite3.SQLITE_NOTADB: "it is not an SQLite database; move it away, or use another PREMORTEM_LEDGER",
    sqlite3.SQLITE_CORRUPT: "it is damaged; keep it as evidence, and run `premortem ledger verify`",
}


def explain(path: Path, error: Exception) -> str:
    """One line: what was found, where, what to do."""
    if isinstance(error, PremortemError):
        return str(error)
    code = getattr(error, "sqlite_errorcode", None)
    cause = _CAUSES.get(code & 0xFF) if isinstance(code, int) else None
    if isinstance(error, OSError):
        cause = "its folder cannot be written; give one that exists, has space and is writable"
    first = (str(error) or type(error).__name__).splitlines()[0]
    return f"ledger {path}: {cause or 'it failed; run `premortem ledger verify`'} ({first})"


def connect(path: Path, busy_s: float, on_create: Callable[[], None]) -> sqlite3.Connection:
    """Open for writing, and lay the schema in a new file; ``on_create`` runs before that is committed.

    Raises:
        ConfigError: a folder, another program's database, or written by a newer premortem.
        StageError: locked, full, read-only, damaged or not a database.
    """
    if path.is_dir():
        raise ConfigError(f"ledger {path}: a folder was found; expected a file; give the path of a file in it")
    db: sqlite3.Connection | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # One lock in the ledger serialises its threads, so sqlite3's own check would forbid what is safe.
        db = sqlite3.connect(path, timeout=busy_s, isolation_level=None, check_same_thread=False)
        _prepare(db, path, busy_s, on_create)
        return db
    except (sqlite3.Error, OSError, ConfigError) as error:
        if db is not None:
            db.close()
        if isinstance(error, ConfigError):
            raise
        raise StageError(explain(path, error)) from None


def _prepare(db: sqlite3.Connection, path: Path, busy_s: float, on_create: Callable[[], None]) -> None:
    version = _known_version(db, path)
    _use_wal(db, busy_s)
    db.execute("PRAGMA synchronous=FULL")
    if version == VERSION:
        return
    db.execute("BEGIN IMMEDIATE")  # two processes may create it at once: the second finds it made
    try:
        if _known_version(db, path) == 0:
            for statement in _SCHEMA.split(";"):
                db.execute(statement)
            db.execute(f"PRAGMA application_id={_APPLICATION_ID}")
            db.execute(f"PRAGMA user_version={VERSION}")
            on_create()
        db.execute("COMMIT")
    except BaseException:
        rollback(db)
        raise


def _known_version(db: sqlite3.Connection, path: Path) -> int:
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    if version > VERSION:
        raise ConfigError(
            f"ledger {path}: schema version {version} was found, {VERSION} is the newest known; upgrade premortem"
        )
    mark = int(db.execute("PRAGMA application_id").fetchone()[0])
    num_tables = int(db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
    if mark != _APPLICATION_ID and (version or num_tables):
        raise ConfigError(f"ledger {path}: another program's database was found; name another place")
    return version


def _use_wal(db: sqlite3.Connection, busy_s: float) -> None:
    """Switching to WAL answers "locked" at once, without SQLite's own waiting."""
    deadline = time.monotonic() + busy_s
    while True:
        try:
            db.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def connect_reader(path: Path, busy_s: float) -> sqlite3.Connection:
    """Open for reading only; a file on a read-only disk, too.

    Raises:
        StageError: there is no ledger, or it cannot be read now.
    """
    if not path.exists():
        raise StageError(f"ledger {path}: no file was found; expected a ledger; check --ledger or PREMORTEM_LEDGER")
    uri = path.absolute().as_uri() + "?mode=ro"
    try:
        try:
            return _reader(uri, busy_s)
        except sqlite3.OperationalError:
            # WAL wants to make files beside the database. Without any, nothing is pending and nobody writes.
            if os.access(path.parent, os.W_OK) or path.with_name(path.name + "-wal").exists():
                raise
            return _reader(uri + "&immutable=1", busy_s)
    except sqlite3.Error as error:
        raise StageError(explain(path, error)) from None


def _reader(uri: str, busy_s: float) -> sqlite3.Connection:
    db = sqlite3.connect(uri, uri=True, timeout=busy_s, isolation_level=None, check_same_thread=False)
    try:
        db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error:
        db.close()
        raise
    return db


def rollback(db: sqlite3.Connection) -> None:
    """Leave the transaction, if SQLite has not left it by itself."""
    if db.in_transaction:
        db.execute("ROLLBACK")
