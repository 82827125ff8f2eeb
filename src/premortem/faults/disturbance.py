"""The one way in and out that all faults share, safe against Ctrl-C, fork and exit.

Covered: an error or Ctrl-C in the body, while putting on, and while taking away; a forgotten `__exit__`
(taken away at interpreter exit); a fork that unwinds through the `with` (only the owner takes away).
Not covered: SIGKILL and an unhandled SIGTERM. What can outlive a process carries its owner's name
(`owner.py`) and is cleaned at the next use.
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from premortem.core.errors import ConfigError
from premortem.faults.fault import Evidence, RemovalFailed

_HELD = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Delay SIGINT and SIGTERM until the block has ended, so that no change is left half made.

    Only the main thread receives Python signal handlers: elsewhere nothing needs to be held.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in _HELD}
    mine = {number: handler for number, handler in before.items() if handler is not None}
    try:
        for number in mine:
            signal.signal(number, lambda got, frame: came.append(got))
        yield
    finally:
        for number, handler in mine.items():
            signal.signal(number, handler)
        for got in came[:1]:
            signal.raise_signal(got)


class Disturbance(ABC):
    """Base of the shelf: a fault writes `_apply`, `_undo`, `observed` and `gone`, nothing else."""

    name: str = "fault"
    _owner_pid: int | None = None

    @abstractmethod
    def _apply(self) -> None:
        """Put the fault on; may raise half way, `_undo` is then called."""

    @abstractmethod
    def _undo(self) -> None:
        """Take away what is there; must bear being called on a fault that is half on, and twice."""

    @abstractmethod
    def observed(self) -> Evidence:
        """Whether the fault was really there, from a measurement."""

    @abstractmethod
    def gone(self) -> Evidence:
        """Whether the fault is really away, by probing again."""

    @property
    def is_on(self) -> bool:
        """Whether this process entered the fault and has not taken it away. A request, never evidence."""
        return self._owner_pid == os.getpid()

    def __enter__(self) -> Self:
        if self.is_on:
            raise ConfigError(f"{self.name}: entered twice; leave it first, or make a second fault")
        try:
            with interrupts_held():
                self._owner_pid = os.getpid()
                atexit.register(self.remove)
                self._apply()
        except BaseException as error:
            self._remove_after(error)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._remove_surely()
        else:
            self._remove_after(error)

    def remove(self) -> None:
        """Take the fault away; again changes nothing. Raises RemovalFailed, and may then be retried."""
        if not self.is_on:
            return
        with interrupts_held():
            try:
                self._undo()
            except Exception as error:
                raise RemovalFailed(
                    f"{self.name}: not taken away cleanly: {error!r}; ask gone(), then remove()"
                ) from error
            self._owner_pid = None
            atexit.unregister(self.remove)

    def _remove_surely(self) -> None:
        try:
            self.remove()
        except (KeyboardInterrupt, SystemExit):
            # The signal may have landed before it could be held; removing twice is harmless.
            self.remove()
            raise

    def _remove_after(self, error: BaseException) -> None:
        try:
            self._remove_surely()
        except RemovalFailed as failure:
            if isinstance(error, Exception):
                raise  # the body's error stays visible as its context
            # Ctrl-C must stay Ctrl-C for those above.
            error.add_note(str(failure))
