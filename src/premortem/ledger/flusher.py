"""The thread that empties a ledger's buffers, and what a ledger must do when its process forks or ends."""

from __future__ import annotations

import atexit
import os
import sqlite3
import sys
import threading
import weakref
from typing import Protocol

INTERVAL_S = 0.5
"""Half of the second that readings may lose: a flush takes time, too."""


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
    """A daemon thread that flushes twice a second. It holds its writer weakly: a forgotten ledger ends it."""

    def __init__(self, writer: Flushed) -> None:
        self._writer = weakref.ref(writer)
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, unless it runs."""
        if self._thread is None:
            self._stopped.clear()
            self._thread = threading.Thread(
                target=_flush_until,
                args=(self._writer, self._wake, self._stopped),
                name="premortem-ledger",
                daemon=True,
            )
            try:
                self._thread.start()
            except (
                RuntimeError
            ):  # no memory for a thread now: what waits is written with the next record, or at the end
                self._thread = None

    def wake(self) -> None:
        """Flush now: the buffer is large."""
        self.start()
        self._wake.set()

    def stop(self) -> None:
        """End the thread and wait for it; it can be started again."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stopped.set()
            self._wake.set()
            if thread is not threading.current_thread():
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
