"""A child process that gets a real signal: killed by the kernel, asked to end, or stopped where it stands.

Covered: children of this process. Not covered: other people's processes (refused), process groups.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from typing import cast

import psutil

from premortem.core.errors import ConfigError, StageError
from premortem.faults.disturbance import Disturbance
from premortem.faults.fault import Evidence

_POLL_SECONDS = 0.01
_JOIN_SECONDS = 5.0


class Killed(Disturbance):
    """Sends `number` to a child at once, or as soon as `after()` says so, asked every 10 ms.

    `child`: the Popen, or the pid, of a process that this one started; any other is a ConfigError.
    """

    def __init__(
        self,
        child: subprocess.Popen[bytes] | subprocess.Popen[str] | int,
        number: signal.Signals = signal.SIGKILL,
        after: Callable[[], bool] | None = None,
    ) -> None:
        self.name = f"killed by {number.name}"
        self.child, self.number, self.after = child, number, after
        self.pid = child if isinstance(child, int) else child.pid
        self._stop = threading.Event()
        self._watcher: threading.Thread | None = None
        self._watch_error: Exception | None = None
        self._sent = False

    def _apply(self) -> None:
        own_child(self.pid, self.name)
        self._stop.clear()
        if self.after is None:
            self._send()
            return
        self._watcher = threading.Thread(target=self._watch, name=self.name, daemon=True)
        self._watcher.start()

    def _watch(self) -> None:
        after = cast(Callable[[], bool], self.after)
        try:
            while not self._stop.is_set():
                if after():
                    self._send()
                    return
                self._stop.wait(_POLL_SECONDS)
        except Exception as error:
            self._watch_error = error

    def _send(self) -> None:
        # An unreaped child keeps its pid, so the signal cannot reach a stranger.
        if self._ending() is None:
            os.kill(self.pid, self.number)
            self._sent = True

    def _undo(self) -> None:
        self._stop.set()
        if self._watcher is not None:
            self._watcher.join(_JOIN_SECONDS)
            if self._watcher.is_alive():
                raise StageError(f"the condition of when to kill {self.pid} has not returned for {_JOIN_SECONDS} s")
            self._watcher = None
        error, self._watch_error = self._watch_error, None
        if error is not None:
            raise StageError(f"the condition of when to kill {self.pid} raised {error!r}") from error

    def _ending(self) -> str | None:
        """How the child ended, by its wait status, left unreaped for its owner; None while it runs."""
        code = None if isinstance(self.child, int) else self.child.returncode
        if code is not None:
            return self._describe(code)
        try:
            status = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            # The owner may have reaped it between the two looks.
            code = None if isinstance(self.child, int) else self.child.returncode
            return "reaped elsewhere" if code is None else self._describe(code)
        if status is None:
            return None
        killed = status.si_code in (os.CLD_KILLED, os.CLD_DUMPED)
        return self._describe(-status.si_status if killed else status.si_status)

    @staticmethod
    def _describe(code: int) -> str:
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def observed(self) -> Evidence:
        """By the wait status. A child that catches the signal and ends by itself after it counts too."""
        ending = self._ending()
        if ending == f"killed by {self.number.name}":
            return Evidence(self._sent, f"process {self.pid} {ending}{'' if self._sent else ', not by this fault'}")
        if not self._sent:
            return Evidence(False, f"no signal sent; process {self.pid} {ending or 'runs'}")
        if ending is None or ending == "reaped elsewhere":
            return Evidence(None, f"{self.number.name} sent; process {self.pid} {ending or 'still runs'}")
        return Evidence(self.number != signal.SIGKILL, f"process {self.pid} {ending} after {self.number.name}")

    def gone(self) -> Evidence:
        """No thread waits to send the signal, and none is pending at the child."""
        if any(thread is self._watcher and thread.is_alive() for thread in threading.enumerate()):
            return Evidence(False, f"a watcher still waits to send {self.number.name} to {self.pid}")
        if self._ending() is None and self._is_pending():
            return Evidence(False, f"{self.number.name} still pending at process {self.pid}")
        return Evidence(True, f"nothing waits to send {self.number.name} to {self.pid}, none pending")

    def _is_pending(self) -> bool:
        try:
            with open(f"/proc/{self.pid}/status", encoding="ascii", errors="replace") as lines:
                masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd", "ShdPnd"))]
        except OSError:
            return False
        return any(mask >> (self.number - 1) & 1 for mask in masks)


class Stopped(Disturbance):
    """Stops a child where it stands (SIGSTOP) and lets it go on (SIGCONT) on removal: it hangs, and is not dead.

    `child` as for :class:`Killed`. Observed by its state T in the kernel's table.
    """

    name = "stopped"

    def __init__(self, child: subprocess.Popen[bytes] | subprocess.Popen[str] | int) -> None:
        self.pid = child if isinstance(child, int) else child.pid
        self._process: psutil.Process | None = None
        self._seen = Evidence(None, f"{self.name}: never entered")

    def _apply(self) -> None:
        self._process = own_child(self.pid, self.name)
        os.kill(self.pid, signal.SIGSTOP)
        state = self._settles(lambda status: status == psutil.STATUS_STOPPED)
        self._seen = Evidence(state == psutil.STATUS_STOPPED, f"process {self.pid} is {state} after SIGSTOP")

    def _settles(self, there: Callable[[str], bool]) -> str:
        """The state, once it is what was asked for, or after a bounded wait: a signal takes a moment to arrive."""
        until = time.monotonic() + _JOIN_SECONDS
        while True:
            state = self._state()
            if there(state) or time.monotonic() > until:
                return state
            time.sleep(_POLL_SECONDS)

    def _state(self) -> str:
        try:
            # the object knows its own start: a reused pid is told apart
            running = self._process is not None and self._process.is_running()
            return str(cast(psutil.Process, self._process).status()) if running else "gone"
        except psutil.NoSuchProcess:
            return "gone"

    def _undo(self) -> None:
        if self._process is not None and self._state() == psutil.STATUS_STOPPED:
            self._process.send_signal(signal.SIGCONT)
            self._settles(lambda status: status != psutil.STATUS_STOPPED)

    def observed(self) -> Evidence:
        """Whether the kernel had it stopped."""
        return self._seen

    def gone(self) -> Evidence:
        """Whether it goes on, or is gone altogether."""
        if self._process is None:
            return Evidence(None, f"{self.name}: never entered")
        state = self._state()
        return Evidence(state != psutil.STATUS_STOPPED, f"process {self.pid} is {state}")


def own_child(pid: int, name: str) -> psutil.Process:
    """The running child of this process with that pid. Raises ConfigError for any other."""
    try:
        child = psutil.Process(pid)
        parent = child.ppid()
    except psutil.NoSuchProcess:
        parent = -1
    if parent != os.getpid():
        raise ConfigError(f"{name}: process {pid} is no running child of this one; start it here")
    return child
