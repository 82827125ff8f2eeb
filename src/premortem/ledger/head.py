"""The head file: the last sequence number and hash, kept outside the database, so that a cut tail shows.

Two slots in two sectors, written in turn and in place: a torn write spoils one slot and leaves the other, and
a full disk does not stop it. The head moves only from a row that it knows: it never steps over a break.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from premortem.ledger.chain import GENESIS, digest

_SLOT_BYTES = 512


@dataclass(frozen=True, slots=True)
class Anchor:
    """A place in the chain."""

    seq: int
    hash: str


START = Anchor(0, GENESIS)


@contextmanager
def locked(fd: int) -> Iterator[None]:
    """Hold the file against other processes. On Windows there is no such lock: one writing process there."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)


class Head:
    """The head file of one ledger. The descriptor stays open between writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1

    def create(self) -> None:
        """Write the anchor of an empty chain. A readable file stays: it is evidence of an earlier ledger here.

        Raises:
            OSError: the folder is full or read-only.
        """
        if self.read() is not None:
            return
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            os.write(fd, _slot(START) + b"\0" * _SLOT_BYTES)
            os.fsync(fd)
        finally:
            os.close(fd)

    def read(self) -> Anchor | None:
        """The newest anchor, None where the file is missing or no slot is whole."""
        try:
            return _newest(_slots(self.path.read_bytes()))
        except OSError:
            return None

    def advance(self, to: Anchor, hash_at: Callable[[int], str | None]) -> str:
        """Move to a committed row; returns what hinders it in one line, or nothing.

        ``hash_at`` gives the hash stored at a sequence number, None where there is no such row.
        """
        try:
            if self._fd < 0:
                self._fd = os.open(self.path, os.O_RDWR)
            with locked(self._fd):
                return self._move(to, hash_at)
        except OSError as error:
            self.close()
            return f"head file {self.path}: {error.strerror or error}; the tail is not anchored; check the disk"

    def _move(self, to: Anchor, hash_at: Callable[[int], str | None]) -> str:
        slots = _slots(os.pread(self._fd, 2 * _SLOT_BYTES, 0))
        at = _newest(slots)
        if at is None:
            return f"head file {self.path}: no readable slot; keep the ledger as evidence and begin a new one"
        if hash_at(at.seq) != at.hash:
            return (
                f"head file {self.path}: knows row {at.seq} with hash {at.hash[:12]}, the ledger does not; "
                "rows were removed or changed; run `premortem ledger verify`"
            )
        if to.seq > at.seq:
            older = 1 if slots[0] == at else 0
            os.pwrite(self._fd, _slot(to), older * _SLOT_BYTES)
            os.fdatasync(self._fd) if sys.platform == "linux" else os.fsync(self._fd)
        return ""

    def close(self) -> None:
        """Let go of the file; it opens again when needed."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _slot(anchor: Anchor) -> bytes:
    text = f"{anchor.seq} {anchor.hash}"
    return f"{text} {digest(text.encode())[:16]}\n".encode().ljust(_SLOT_BYTES, b"\0")


def _slots(data: bytes) -> list[Anchor | None]:
    return [_parse(data[start : start + _SLOT_BYTES]) for start in (0, _SLOT_BYTES)]


def _newest(slots: list[Anchor | None]) -> Anchor | None:
    return max((a for a in slots if a is not None), key=lambda a: a.seq, default=None)


def _parse(slot: bytes) -> Anchor | None:
    words = slot.rstrip(b"\0").split()
    if len(words) != 3 or digest(b" ".join(words[:2]))[:16].encode() != words[2]:
        return None
    return Anchor(int(words[0]), words[1].decode("ascii"))
