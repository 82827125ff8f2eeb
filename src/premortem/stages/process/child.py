"""One start of a command: its streams, its signals, its orderly end.

The command runs in a session of its own under a keeper (:mod:`~premortem.stages.process.keeper`), unchanged. Linux.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from premortem.core.errors import ConfigError, StageError
from premortem.stages.process import keeper
from premortem.stages.process.tree import Tree

_START_S = 20.0
_POLL_S = 0.02
_SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ksh", "busybox"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What to start.

    Attributes:
        command: program and arguments.
        environment: all of it.
        grace_s: seconds between SIGTERM and SIGKILL.
        streams: file descriptors for stdin, stdout and stderr.
        has_terminal: the streams are a terminal that shall become the command's own.
        group: the file that a process writes itself into to enter a control group; ``None`` for none.
        folder: where it works; ``None`` for here.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    grace_s: float = 10.0
    streams: tuple[int, int, int] = (0, 1, 2)
    has_terminal: bool = False
    group: Path | None = None
    folder: Path | None = None


class Child:
    """A started command.

    Raises:
        ConfigError: the command does not exist or may not be executed.
        StageError: it could not be started for another reason.
    """

    def __init__(self, start: Start) -> None:
        self._start = start
        self._report = b""
        self._is_closed = False
        self._told: dict[str, int | str] = {}
        life, self._life = os.pipe()
        self._reports, report = os.pipe()
        words = [sys.executable, "-I", "-S", keeper.__file__, str(life), str(report), str(start.grace_s),
                 "-" if start.group is None else str(start.group), "tty" if start.has_terminal else "-"]  # fmt: skip
        try:
            self._keeper = subprocess.Popen(
                [*words, *start.command], env=dict(start.environment), start_new_session=True, cwd=start.folder,
                stdin=start.streams[0], stdout=start.streams[1], stderr=start.streams[2], pass_fds=(life, report),
            )  # fmt: skip
        except BaseException:
            os.close(self._reports)
            os.close(self._life)
            raise
        finally:
            os.close(life)
            os.close(report)
        self.began = time.monotonic()
        self._await_start()
        self.pid = int(self._told["pid"])
        self.tree = Tree(self._keeper.pid)

    @property
    def status(self) -> int | None:
        """The command's return code as ``subprocess`` counts (-9: killed by SIGKILL); ``None`` while it runs.

        A keeper that was killed took the command with it: -9.
        """
        has_ended = self._keeper.poll() is not None
        self._listen(0.0)
        if "status" in self._told:
            return os.waitstatus_to_exitcode(int(self._told["status"]))
        return -signal.SIGKILL if has_ended else None

    def fileno(self) -> int:
        """Becomes readable when the command ends: for ``select``."""
        return self._reports

    @property
    def left_behind(self) -> int:
        """Processes that the command left running and that had to be ended."""
        self._listen(0.0)
        return int(self._told.get("left", 0))

    def send(self, number: int) -> None:
        """A signal to the command alone, as ``kill PID`` would do without a supervisor."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def send_group(self, number: int) -> None:
        """A signal to the command's process group, as a terminal's Ctrl-C does; its keeper ignores it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._keeper.pid, number)

    def send_all(self, number: int) -> None:
        """A signal to every process of the tree."""
        for pid in self.tree.pids():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)

    def stop(self) -> None:
        """End it in good order; returns when nothing of it is left.

        SIGTERM goes to the command alone, so that it may save and end its workers itself (and to the children of
        a shell, which waits for them before it hears); at half of the grace to all; at its end SIGKILL.
        """
        grace = self._start.grace_s
        self._ask_to_end()
        if not self._wait_until(lambda: self.status is not None, grace / 2):
            self.send_all(signal.SIGTERM)
            if not self._wait_until(lambda: self.status is not None, grace / 2):
                self.send_all(signal.SIGKILL)
        self.wait()

    def wait(self) -> int:
        """Wait until the command has ended and nothing of it is left; returns its code, once it has one."""
        while self._keeper.poll() is None:
            self._listen(_POLL_S)
            if self.status is not None and self._told.get("left") is not None:
                self._keeper.wait()
        code = self.status
        return -signal.SIGKILL if code is None else code

    def close(self) -> None:
        """Let go of it: what still runs is killed."""
        if self._keeper.poll() is None:
            self.send_all(signal.SIGKILL)
            self.wait()
        if not self._is_closed:
            self._is_closed = True
            os.close(self._life)
            os.close(self._reports)

    # --- inside ------------------------------------------------------------------------------

    def _ask_to_end(self) -> None:
        self.send(signal.SIGTERM)
        if self.tree.name_of(self.pid) in _SHELLS:
            for pid in keeper.children(self.pid):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGTERM)
        self.send_all(signal.SIGCONT)  # a stopped process hears nothing else

    def _wait_until(self, holds: Callable[[], bool], seconds: float) -> bool:
        until = time.monotonic() + seconds
        while not holds():
            left = until - time.monotonic()
            if left <= 0:
                return False
            self._listen(min(_POLL_S, left))
        return True

    def _await_start(self) -> None:
        self._wait_until(lambda: bool(self._told) or self._keeper.poll() is not None, _START_S)
        self._listen(0.0)
        if "pid" in self._told:
            return
        self._keeper.kill()
        self._keeper.wait()
        os.close(self._life)
        os.close(self._reports)
        _raise_for(str(self._told.get("error", "")), self._start)

    def _listen(self, seconds: float) -> None:
        """Take what the keeper reported, waiting so long for the first word."""
        while not self._is_closed and select.select([self._reports], [], [], seconds)[0]:
            piece = os.read(self._reports, 4096)
            if not piece:
                time.sleep(min(seconds, _POLL_S))
                return
            *lines, self._report = (self._report + piece).split(b"\n")
            for line in lines:
                self._told.update(json.loads(line))
            seconds = 0.0


def _raise_for(error: str, start: Start) -> None:
    number, _, words = error.partition(" ")
    name = start.command[0]
    if start.group is not None and str(start.group) in words:
        raise StageError(f"the command could not enter the control group {start.group.parent}: {words}")
    if number == "2":
        raise ConfigError(f"found the command {name!r}, which does not exist here; expected a program on the PATH "
                          "or a path to one, after `--`")  # fmt: skip
    if number in ("13", "8"):
        raise ConfigError(f"found {name!r}, which cannot be executed ({words.partition(':')[0]}); expected a program; "
                          f"give it the right (chmod +x), or name its interpreter")  # fmt: skip
    raise StageError(f"{name!r} could not be started: {words or 'its keeper ended without a word'}")
