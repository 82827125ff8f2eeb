"""Starts one command and keeps it: nothing that it started outlives it, or the supervisor.

Run as a script by the bare interpreter, one for each start. It adopts whatever the command leaves behind
(PR_SET_CHILD_SUBREAPER), so that a daemonised grandchild is still found; the command itself dies with it
(PR_SET_PDEATHSIG). When the pipe ``life`` closes, its supervisor was killed: everything is ended, in good order.

It stands outside the memory group that the command enters, so the kernel's choice of a victim is never the keeper.

Arguments: fd of life, fd of the report, grace in seconds, the group's file of processes or ``-``, ``tty`` or
``-``, then the command. The report has one JSON object a line: ``pid`` or ``error``, ``status``, ``left``.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import select
import signal
import sys
import termios
import time

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_POLL_S = 0.05
_BY_THEMSELVES_S = 2.0
_OWN = (signal.SIGPIPE, signal.SIGXFSZ)  # the interpreter ignores these for itself, not the user


def main(arguments: list[str]) -> None:
    """Keep one command until nothing of it is left."""
    life, report = int(arguments[0]), int(arguments[1])
    grace, group, tty = float(arguments[2]), arguments[3], arguments[4] == "tty"
    ignored = _ignore_signals()
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    if tty:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    pid, error = _start(arguments[5:], group, ignored, (life, report))
    if error:
        _say(report, error=error)
        return
    _say(report, pid=pid)
    _let_go_of_streams()
    status = _wait(pid, life, woken)
    if status is None:  # the supervisor is gone
        end_tree(grace)
        return
    _say(report, status=status)
    _say(report, left=_clear_up(grace))


def _ignore_signals() -> set[int]:
    """The keeper hears nothing that is meant for the command; returns what the user had ignored already."""
    ignored = set()
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
        with contextlib.suppress(OSError, ValueError):
            if signal.getsignal(number) is signal.SIG_IGN and number not in _OWN:
                ignored.add(int(number))
            elif number not in (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGCONT):
                signal.signal(number, signal.SIG_IGN)
    return ignored


def _start(command: list[str], group: str, ignored: set[int], own: tuple[int, int]) -> tuple[int, str]:
    """Fork and exec; returns the pid, or what hindered it. A pipe that exec closes tells the two apart."""
    told, tell = os.pipe()
    keeper = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            _become(command, group, ignored, (*own, told), keeper)
        except OSError as error:
            os.write(tell, f"{error.errno} {error.strerror}: {error.filename or command[0]}".encode())
        finally:
            os._exit(127)
    os.close(tell)
    hindrance = b""
    while piece := os.read(told, 4096):
        hindrance += piece
    os.close(told)
    if hindrance:
        os.waitpid(pid, 0)
    return pid, hindrance.decode(errors="replace")


def _become(command: list[str], group: str, ignored: set[int], close: tuple[int, ...], keeper: int) -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != keeper:
        os._exit(127)  # it died before the request above
    if group != "-":
        with open(group, "w", encoding="ascii") as procs:
            procs.write("0")
    for descriptor in close:
        os.close(descriptor)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if int(number) not in ignored:
            with contextlib.suppress(OSError, ValueError):
                signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    os.execvpe(command[0], command, _given_environment())


def _given_environment() -> dict[bytes, bytes]:
    """As it was handed over: the interpreter may have added a locale of its own (PEP 538)."""
    with open("/proc/self/environ", "rb") as block:
        pairs = (entry.partition(b"=") for entry in block.read().split(b"\0") if entry)
        return {name: value for name, _, value in pairs}


def _let_go_of_streams() -> None:
    """Readers of the output wait for its end: only the command may hold it open."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    os.close(nothing)


def _wait(pid: int, life: int, woken: int) -> int | None:
    """The command's wait status; ``None`` when the supervisor went first. Adopted processes are reaped."""
    while True:
        status = _reap(pid)
        if status is not None:
            return status
        ready, _, _ = select.select([life, woken], [], [], 1.0)
        if woken in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(woken, 4096)
        if life in ready and not os.read(life, 1):
            return None


def _reap(pid: int) -> int | None:
    while True:
        try:
            ended, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return None
        if ended == 0:
            return None
        if ended == pid:
            return status


def _clear_up(grace: float) -> int:
    """What the command left running may end by itself, then is ended; returns how many had to be."""
    until = time.monotonic() + _BY_THEMSELVES_S
    while descendants(os.getpid()) and time.monotonic() < until:
        _reap(-1)
        time.sleep(_POLL_S)
    left = len(descendants(os.getpid()))
    end_tree(grace)
    return left


def end_tree(grace: float) -> None:
    """SIGTERM to all that descends from this process, SIGKILL after so many seconds; returns when none is left."""
    _send_all(signal.SIGTERM)
    _send_all(signal.SIGCONT)  # a stopped process hears nothing else
    until = time.monotonic() + grace
    while descendants(os.getpid()):
        _reap(-1)
        if time.monotonic() >= until:
            _send_all(signal.SIGKILL)
        time.sleep(_POLL_S)
    _reap(-1)


def _send_all(number: int) -> None:
    for pid in descendants(os.getpid()):
        with contextlib.suppress(OSError):
            os.kill(pid, number)


def descendants(pid: int) -> list[int]:
    """Every process below this one, zombies left out, as /proc shows it now."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        for child in children(waiting.pop()):
            waiting.append(child)
            if state(child) not in ("Z", "X", ""):
                found.append(child)
    return found


def children(pid: int) -> list[int]:
    """The children of all threads of a process; empty for one that is gone."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as lines:
                found += [int(word) for word in lines.read().split()]
    return found


def state(pid: int) -> str:
    """The letter of its state: R, S, D, T (stopped), Z (zombie); empty for one that is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def _prctl(option: int, value: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _say(report: int, **told: int | str) -> None:
    with contextlib.suppress(OSError):
        os.write(report, json.dumps(told).encode() + b"\n")


if __name__ == "__main__":
    main(sys.argv[1:])
