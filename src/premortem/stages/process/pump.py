"""Output passed on byte for byte, and read line by line on the way."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import threading
import time
from collections.abc import Callable

_PIECE = 1 << 16
_LONGEST = 1 << 14
"""Bytes of a line that are looked at; what is longer is passed on whole and cut for the reader only."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_ENDS = re.compile(rb"[\r\n]+")  # a progress bar ends its lines by a carriage return

Hear = Callable[[str], None]


class Pump:
    """A thread that copies one stream to another until it ends.

    Where the reader behind ``target`` has gone, ``source`` is closed, so that the command learns it as it would
    without a supervisor (SIGPIPE or EPIPE), and :attr:`is_unheard` says so. While ``target`` takes nothing,
    :attr:`is_held_up` does; a full disk behind it is waited for, and what did not get there by the end is
    :attr:`num_lost` bytes.

    Args:
        source: fd to read; closed at the end.
        target: fd to write; left open.
        hear: called with each line as text, without its end; what it raises is ignored.
    """

    def __init__(self, source: int, target: int, hear: Hear) -> None:
        self._source, self._target, self._hear = source, target, hear
        self._rest = b""
        self._writing_since: float | None = None
        self._stop = threading.Event()
        self.last = time.monotonic()
        self.num_bytes = 0
        self.is_unheard = False
        self.num_lost = 0
        self.why_lost = ""
        self._thread = threading.Thread(target=self._run, name="premortem-pump", daemon=True)
        self._thread.start()

    @property
    def is_held_up(self) -> bool:
        """Whether the reader of the output has taken nothing for a second: the command may be waiting for it."""
        since = self._writing_since
        return since is not None and time.monotonic() - since > 1.0

    def close(self, seconds: float = 5.0) -> None:
        """Wait for the end of the stream; what still comes after so many seconds is given up."""
        self._thread.join(seconds)
        self._stop.set()
        self._thread.join(1.0)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                if not select.select([self._source], [], [], 0.2)[0]:
                    continue
                piece = os.read(self._source, _PIECE)
                if not piece:
                    break
                self.last = time.monotonic()
                self.num_bytes += len(piece)
                self._write(piece)
                self._read_lines(piece)
        except OSError:
            pass  # a terminal whose other side closed (EIO), or a reader that has gone (EPIPE)
        finally:
            self._tell(self._rest)
            os.close(self._source)

    def _write(self, piece: bytes) -> None:
        self._writing_since = time.monotonic()
        view = memoryview(piece)
        while view and not self._stop.is_set():
            view = view[self._put(view) :]
        self.num_lost += len(view)
        self._writing_since = None

    def _put(self, view: memoryview) -> int:
        try:
            return os.write(self._target, view)
        except BlockingIOError:  # a target that someone made non-blocking
            select.select([], [self._target], [], 0.2)
            return 0
        except BrokenPipeError:
            self.is_unheard = True
            raise
        except OSError as error:
            if error.errno not in _FULL:
                raise
            self.why_lost = str(error.strerror)  # in the end; there may be room again before that
            self._stop.wait(0.2)
            return 0

    def _read_lines(self, piece: bytes) -> None:
        *lines, rest = _ENDS.split(self._rest + piece)
        self._rest = rest[-_LONGEST:]
        for line in lines:
            self._tell(line[:_LONGEST])

    def _tell(self, line: bytes) -> None:
        if line:
            with contextlib.suppress(Exception):
                self._hear(line.decode("utf-8", errors="replace"))
