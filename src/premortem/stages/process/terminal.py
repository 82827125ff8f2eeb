"""A terminal of its own for the command, where the supervisor stands at one; plain pipes otherwise.

Keys go through as they are typed (no line editing, no echo here: the command's own terminal does both); Ctrl-C and
Ctrl-Z reach the supervisor as signals, and it hands them on. Not covered: programs that want Ctrl-C as a byte.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import struct
import termios
import threading
from types import TracebackType
from typing import Self

from premortem.stages.process.pump import Hear, Pump

_OUTPUT, _FLAGS = 1, 3  # indices of the output and the local flags in what tcgetattr returns
_SIZE = "HHHH"


class Streams:
    """The streams of one start.

    stdin: the supervisor's own, untouched, or a terminal. stdout and stderr: pumped to ``stdout`` and ``stderr``.
    Use as a context manager; close :attr:`handed` once the command has them, by :meth:`let_go`.
    """

    def __init__(self, hear: Hear, *, stdout: int = 1, stderr: int = 2) -> None:
        self.has_terminal = os.isatty(0) and os.isatty(stdout)
        self.pumps: list[Pump] = []
        self._keys: _Keys | None = None
        if self.has_terminal:
            self.handed = self._open_terminal(hear, stdout, stderr)
        else:
            self.handed = (0, self._pipe(hear, stdout), self._pipe(hear, stderr))
        self._to_close = tuple(descriptor for descriptor in self.handed if descriptor != 0)

    def let_go(self) -> None:
        """Close what the command has taken over: only then does its end close the streams."""
        for descriptor in set(self._to_close):
            os.close(descriptor)
        self._to_close = ()

    def resize(self) -> None:
        """Give the command's terminal the size of ours; the kernel tells the command (SIGWINCH)."""
        if self._keys is not None:
            self._keys.resize()

    def suspend(self) -> None:
        """Give the terminal back for a while (Ctrl-Z)."""
        if self._keys is not None:
            self._keys.end()

    def resume(self) -> None:
        """Take it again."""
        if self._keys is not None:
            self._keys.begin()
            self._keys.resize()

    @property
    def last(self) -> float:
        """When the command last wrote anything, as ``time.monotonic`` counts."""
        return max(pump.last for pump in self.pumps)

    @property
    def is_held_up(self) -> bool:
        """Whether the reader of the output takes nothing."""
        return any(pump.is_held_up for pump in self.pumps)

    @property
    def is_unheard(self) -> bool:
        """Whether the reader of the output has gone."""
        return any(pump.is_unheard for pump in self.pumps)

    @property
    def lost(self) -> str:
        """What of the output was not passed on for want of space, in words; empty where nothing was lost."""
        why = next((pump.why_lost for pump in self.pumps if pump.num_lost), "")
        num = sum(pump.num_lost for pump in self.pumps)
        return f"at least {num} bytes of the output could not be passed on ({why})" if num else ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Pass on what is left; give the terminal back as it was."""
        self.let_go()
        for pump in self.pumps:
            pump.close()
        if self._keys is not None:
            self._keys.close()
            self._keys = None

    def _pipe(self, hear: Hear, target: int) -> int:
        source, handed = os.pipe()
        self.pumps.append(Pump(source, target, hear))
        return handed

    def _open_terminal(self, hear: Hear, stdout: int, stderr: int) -> tuple[int, int, int]:
        master, slave = pty.openpty()
        with contextlib.suppress(termios.error):
            mode = termios.tcgetattr(0)
            mode[_OUTPUT] = mode[_OUTPUT] & ~termios.ONLCR  # our own terminal makes the line ends
            termios.tcsetattr(slave, termios.TCSANOW, mode)
        self.pumps.append(Pump(os.dup(master), stdout, hear))
        self._keys = _Keys(master)
        self._keys.resize()
        return (slave, slave, slave if os.isatty(stderr) else self._pipe(hear, stderr))


class _Keys:
    """A thread that hands typed keys to the command's terminal."""

    def __init__(self, master: int) -> None:
        self._master = master
        self._stop, self._stopped = os.pipe()
        self._saved = termios.tcgetattr(0)
        self.begin()
        self._thread = threading.Thread(target=self._run, name="premortem-keys", daemon=True)
        self._thread.start()

    def begin(self) -> None:
        """Take keys one by one; output and signals stay as they are."""
        mode = termios.tcgetattr(0)
        mode[_FLAGS] = mode[_FLAGS] & ~(termios.ICANON | termios.ECHO)
        with contextlib.suppress(termios.error):
            termios.tcsetattr(0, termios.TCSANOW, mode)

    def end(self) -> None:
        """As it was."""
        with contextlib.suppress(termios.error):
            termios.tcsetattr(0, termios.TCSADRAIN, self._saved)

    def resize(self) -> None:
        with contextlib.suppress(OSError):
            size = fcntl.ioctl(0, termios.TIOCGWINSZ, struct.pack(_SIZE, 0, 0, 0, 0))
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)

    def close(self) -> None:
        os.write(self._stopped, b"x")
        self._thread.join(1.0)
        self.end()
        for descriptor in (self._master, self._stop, self._stopped):
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                ready, _, _ = select.select([0, self._stop], [], [])
                if self._stop in ready:
                    return
                keys = os.read(0, 1024)
                if not keys:
                    os.write(self._master, b"\x04")
                    return
                os.write(self._master, keys)
