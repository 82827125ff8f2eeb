"""The thread that empties a ledger's buffers, and what a ledger must do when its process forks or ends."""

from __future__ import annotations

import atexit
import os
import sqlite3
import sys
import threading
import time
import weakref
from functools import partial
from typing import Protocol

from premortem.machine.threads import Begun, begin

INTERVAL_S = 0.5
"""Half of the second that readings may lose: a flush takes time, too."""
_AGAIN_S = 10.0
"""Until a thread is tried again where none began: each try may wait."""


class Flushed(Protocol):
    """What the flusher needs of a writer."""

    @property
    def lock(self) -> threading.RLock:
        """Held while the writer touches its file."""
        ...

    def flush(self) -> None:
        """Write what waits."""
        ...

    def close(self) -> None:
        """Write what waits and let go of the file."""
        ...

    def start_over(self) -> None:
        """Forget, in a forked child, all that belongs to the parent."""
        ...


class Flusher:
    """A daemon thread that flushes twice a second. It holds its writer weakly: a forgotten ledger ends it.

    Where memory is too short for a thread, what waits is written by whoever notes it, as often.
    """

    def __init__(self, writer: Flushed) -> None:
        self._writer = weakref.ref(writer)
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._thread: Begun | None = None
        self._failed_at: float | None = None
        self._flushed_at = 0.0

    def start(self) -> None:
        """Begin, unless it runs or was tried a moment ago."""
        if self._thread is not None:
            return
        if self._failed_at is None or time.monotonic() >= self._failed_at + _AGAIN_S:
            self._stopped.clear()
            self._thread = begin(partial(_flush_until, self._writer, self._wake, self._stopped))
            self._failed_at = time.monotonic() if self._thread is None else None

    @property
    def is_missing(self) -> bool:
        """Whether no thread could be begun: the caller writes."""
        return self._failed_at is not None

    def wake(self) -> None:
        """Flush now: the buffer is large."""
        self.start()
        self._wake.set()
        if self.is_missing:
            self.flush_here()

    def flush_here(self) -> None:
        """Flush in the caller's own thread, if it is time; and see whether a thread can be begun by now."""
        writer = self._writer()
        if writer is not None and time.monotonic() >= self._flushed_at + INTERVAL_S:
            writer.flush()
            self._flushed_at = time.monotonic()
            self.start()

    def stop(self) -> None:
        """End the thread and wait for it; it can be started again."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stopped.set()
            self._wake.set()
            if not thread.is_current:
                thread.join()


def _flush_until(writer: weakref.ref[Flushed], wake: threading.Event, stopped: threading.Event) -> None:
    while not stopped.is_set():
        wake.wait(INTERVAL_S)
        wake.clear()
        alive = writer()
        if alive is None:
            return
        if not stopped.is_set():
            alive.flush()
        del alive


_open: weakref.WeakSet[Flushed] = weakref.WeakSet()
_held: list[Flushed] = []


def enlist(writer: Flushed) -> None:
    """Close it when the process ends, and part it from its parent in a forked child."""
    _open.add(writer)


def abandon(db: sqlite3.Connection) -> None:
    """Never close a connection that a fork copied: closing would meddle with the parent's files.

    Source: https://sqlite.org/howtocorrupt.html, section 2.6.
    """
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(db))


def _close_all() -> None:
    for writer in list(_open):
        writer.close()


def _before_fork() -> None:
    for writer in list(_open):
        writer.lock.acquire()
        _held.append(writer)


def _after_in_parent() -> None:
    while _held:
        _held.pop().lock.release()


def _after_in_child() -> None:
    while _held:
        _held.pop().start_over()


atexit.register(_close_all)
if sys.platform != "win32":
    # A copied lock would stay locked for ever in the child if another thread held it at the fork.
    os.register_at_fork(before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
