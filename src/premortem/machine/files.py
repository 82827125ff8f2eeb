"""Small files of /proc and /sys, read so that nothing raises: what is not there is None, for unknown."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

_ENOUGH = 1 << 16
UNLIMITED = 1 << 62
"""Numbers from here on are how cgroup v1 and rlimits write "no limit"."""


def read_bytes(path: Path | str) -> bytes | None:
    """The whole file; None where it is missing or may not be read."""
    try:
        with open(path, "rb", buffering=0) as stream:
            return stream.read()
    except OSError:
        return None


def read_number(path: Path | str) -> int | None:
    """A file of one number; None where there is none, as in `max`."""
    return number(read_bytes(path))


def number(text: bytes | None) -> int | None:
    """The number in it; None for none, for `max`, and for the large number that means no limit."""
    try:
        found = int(text or b"")
    except ValueError:
        return None
    return found if found < UNLIMITED else None


def field(text: bytes | None, key: bytes) -> int | None:
    """The number after `key` in lines such as `oom_kill 3` or `VmHWM:   12 kB`, as it stands there."""
    if text is None:
        return None
    at = 0 if text.startswith(key) else text.find(b"\n" + key) + 1
    if at == 0 and not text.startswith(key):
        return None
    rest = text[at + len(key) :].split(None, 1)
    try:
        return int(rest[0]) if rest else None
    except ValueError:
        return None


class OpenFile:
    """A file that is opened once and read from its start each time; None while it cannot be read."""

    __slots__ = ("_descriptor", "path")

    def __init__(self, path: Path | str) -> None:
        self.path = str(path)
        self._descriptor = -1

    def read(self) -> bytes | None:
        """What stands there now. A file that could not be read is opened anew at the next call."""
        try:
            if self._descriptor < 0:
                self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            return os.pread(self._descriptor, _ENOUGH, 0)
        except OSError:
            self.close()
            return None

    def close(self) -> None:
        """Twice is the same as once."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(
        self, _quietly: type[contextlib.suppress] = contextlib.suppress, _close: Callable[[int], None] = os.close
    ) -> None:
        # bound beforehand: when the interpreter ends, this module's own names may be gone already
        with _quietly(OSError, AttributeError):
            if self._descriptor >= 0:
                _close(self._descriptor)
