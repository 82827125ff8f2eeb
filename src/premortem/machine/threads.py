"""Beginning a thread where memory may be too short for one.

``threading.Thread.start`` waits without a limit until the new thread says that it runs. One that dies before it can
(a MemoryError in its first frames) leaves the starter hanging for ever. Here the wait is bounded.
"""

from __future__ import annotations

import _thread
import sys
import threading
from collections.abc import Callable

WAIT_S = 5.0
"""A thread begins within microseconds; on a machine that swaps, within seconds."""


class Begun:
    """A thread that was begun; it never keeps the process from ending."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun, self._over = threading.Event(), threading.Event()
        self._is_given_up = False
        self._ident = 0

    def is_alive(self) -> bool:
        """Whether its body has not come to its end."""
        return not self._over.is_set()

    @property
    def is_current(self) -> bool:
        """Whether this is the thread that asks."""
        return self._ident == threading.get_ident()

    def join(self, seconds: float | None = None) -> bool:
        """Wait for its end, so long at most; whether it came."""
        return self._over.wait(seconds)

    def run(self, body: Callable[[], object]) -> None:
        """What the new thread does."""
        _follow()
        try:
            with self._lock:  # who gave up waiting does without, so a late thread must do nothing
                if self._is_given_up:
                    return
                self._ident = threading.get_ident()
            self._begun.set()
            body()
        finally:
            self._over.set()

    def has_begun(self, seconds: float) -> bool:
        """Wait until it runs, so long at most; where it does not, it never will."""
        if self._begun.wait(seconds):
            return True
        with self._lock:
            self._is_given_up = not self._ident
        return not self._is_given_up


def _follow() -> None:
    """Debuggers, profilers and coverage follow threads of ``threading``; this one shall be no blind spot."""
    if (trace := threading.gettrace()) is not None:
        sys.settrace(trace)
    if (profile := threading.getprofile()) is not None:
        sys.setprofile(profile)


def begin(body: Callable[[], object], wait_s: float = WAIT_S) -> Begun | None:
    """Run ``body`` in a thread of its own; ``None`` where none began within ``wait_s`` seconds, and none will.

    ``body`` handles its own exceptions; one that it does not ends the thread and is printed.
    """
    try:
        thread = Begun()
        _thread.start_new_thread(thread.run, (body,))
        return thread if thread.has_begun(wait_s) else None
    except (RuntimeError, MemoryError):
        return None
