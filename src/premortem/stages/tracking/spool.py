"""The writing side: one line appended by one write, and never a wait for anybody.

Covered: kill -9 of the process (a line is in the kernel's hands when ``append`` returns), a full or failing disk
(lines wait in memory, are counted, and are written when there is room), threads, forks. Not covered: a file system
that hangs in a write; power loss within the second until the sender has flushed the file.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from pathlib import Path

from premortem.stages.tracking.record import Logged, to_line

MOST_WAITING = 65_536
"""Lines held in memory while the disk takes none; beyond that the oldest are dropped and counted."""


class Spool:
    """Appends to one spool file; raises ``OSError`` only when it is opened.

    Attributes:
        last: the newest sequence number given.
        failures: writes that failed since the last one that worked.
        num_lost: records that no disk took and memory could not hold.
        fault: what the last failure was, in words.
    """

    def __init__(self, path: Path, last: int) -> None:
        self.path = path
        self.last = last
        self.failures = 0
        self.num_lost = 0
        self.fault = ""
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._size = os.fstat(self._fd).st_size
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._waiting: deque[bytes] = deque()
        # a line that a crash tore must not swallow the next one
        self._is_torn = self._size > 0 and os.pread(self._fd, 1, self._size - 1) != b"\n"

    @property
    def num_waiting(self) -> int:
        """Records in memory that no disk has taken yet."""
        return len(self._waiting)

    def append(self, step: int, wall: float, values: dict[str, float | str], end: str = "") -> bool:
        """Keep one record; False while it is in memory alone. A forked child keeps nothing: the spool is its parent's.

        This is the hot path.
        """
        if os.getpid() != self._pid:
            return False
        with self._lock:
            self.last += 1
            line = to_line(Logged(self.last, step, wall, values, end))
            if self._waiting:
                self._hold(line)
                return self._write_waiting()
            if self._write(line):
                return True
            self._hold(line)
            return False

    def flush(self) -> bool:
        """Try again to write what waits; True when nothing does."""
        with self._lock:
            return self._write_waiting() if self._waiting else True

    def close(self) -> None:
        """Let go of the file; what waits is tried once more."""
        self.flush()
        os.close(self._fd)

    def _hold(self, line: bytes) -> None:
        if len(self._waiting) >= MOST_WAITING:
            self._waiting.popleft()
            self.num_lost += 1
        self._waiting.append(line)

    def _write_waiting(self) -> bool:
        while self._waiting:
            if not self._write(self._waiting[0]):
                return False
            self._waiting.popleft()
        return True

    def _write(self, line: bytes) -> bool:
        whole = b"\n" + line if self._is_torn else line
        try:
            written = os.write(self._fd, whole)
            if written < len(whole):
                self._is_torn = True
                os.ftruncate(self._fd, self._size)
                self._is_torn = False
                return self._failed("the disk took a part of a line only")
        except OSError as error:
            return self._failed(str(error))
        self._size += written
        self._is_torn = False
        self.failures = 0
        return True

    def _failed(self, why: str) -> bool:
        self.failures += 1
        self.fault = f"{self.path}: {why}"
        return False
