"""Where records wait while the database cannot take them: in memory, and on disk as JSON lines.

Beside the ledger first; in the temporary folder when that disk is full. Every record carries a token, which
the database keeps unique: replaying a line twice writes it once.
"""

from __future__ import annotations

import os
from pathlib import Path

from premortem.core.evidence import Record
from premortem.ledger.chain import Draft, digest, from_line, to_line
from premortem.ledger.head import locked


class Spool:
    """The waiting records of one ledger, oldest first."""

    def __init__(self, ledger: Path) -> None:
        import tempfile  # twice the import time of all else here

        mark = digest(str(ledger.absolute()).encode("utf-8", "surrogateescape"))[:16]
        self._homes = (
            ledger.with_name(ledger.stem + ".spool.jsonl"),
            Path(tempfile.gettempdir()) / f"premortem-{mark}.spool.jsonl",
        )
        self.waiting: list[Draft] = []
        self.home: Path | None = None

    def load(self) -> None:
        """Take over what an earlier process left."""
        for home in self._homes:
            lines = _read(home).splitlines()
            if lines:
                self.home = home
                self.waiting += [_draft(line) for line in lines if line]

    def keep(self, draft: Draft) -> None:
        """Hold one record in memory, and on the first disk that takes it."""
        self.waiting.append(draft)
        for home in self._homes:
            if _append(home, to_line(draft).encode("ascii") + b"\n"):
                self.home = home
                return
        self.home = None

    def release(self) -> None:
        """Forget what was just written to the database."""
        done = {draft.token for draft in self.waiting}
        self.waiting.clear()
        self.home = None
        for home in self._homes:
            _empty(home, done)


def _draft(line: str) -> Draft:
    try:
        return from_line(line)
    except (ValueError, KeyError, TypeError):
        token = "torn-" + digest(line.encode("utf-8", "surrogateescape"))[:24]
        told: Record = Record("guard_fault", "", None, 0, 0.0, {"what": "a torn line in the spool", "line": line})
        return Draft(wall=0.0, run="", role="note", token=token, record=told)


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "backslashreplace")
    except OSError:
        return ""


def _append(path: Path, line: bytes) -> bool:
    """Write and sync one line; a partial one is cut off again."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError:
        return False
    try:
        with locked(fd):
            return _append_locked(fd, line)
    except OSError:
        return False
    finally:
        os.close(fd)


def _append_locked(fd: int, line: bytes) -> bool:
    size = os.fstat(fd).st_size
    # A line that a crash tore must not swallow the next one.
    whole = line if size == 0 or os.pread(fd, 1, size - 1) == b"\n" else b"\n" + line
    try:
        written = os.write(fd, whole)
        os.fsync(fd)
    except OSError:
        os.ftruncate(fd, size)
        return False
    if written < len(whole):
        os.ftruncate(fd, size)
        return False
    return True


def _empty(path: Path, done: set[str]) -> None:
    """Cut the file to nothing, unless another process has a record in it that is not written yet."""
    try:
        fd = os.open(path, os.O_RDWR)
    except OSError:
        return
    try:
        with locked(fd):
            lines = os.pread(fd, os.fstat(fd).st_size, 0).decode("utf-8", "backslashreplace").splitlines()
            if all(_draft(line).token in done for line in lines if line):
                os.ftruncate(fd, 0)
    except OSError:
        return  # the tokens keep a second replay from doubling
    finally:
        os.close(fd)
