"""Neighbours that want the processor: real processes that compute for ever beside a victim, on one and the same core.

Covered: a process of the same user with all of its threads; one that it starts meanwhile inherits the core, and is let
go with the others. Not covered: processes that it starts meanwhile, and a machine that hides its run-queue statistics
(observed by the neighbours' own CPU time alone there).
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from premortem.core.errors import ConfigError
from premortem.faults.disturbance import Disturbance
from premortem.faults.fault import Evidence, NotPermitted

_CODE = "from premortem.machine.parent import end_with_parent; end_with_parent()\nwhile True: pass\n"
_START_S = 10.0
_POLL_S = 0.01
_LEAST = 0.1
"""Of one core's time: what neighbours must really have had, all together, to count as competition."""


class CpuHogs(Disturbance):
    """``count`` processes that never sleep, and the victim, share one core until it is removed.

    Args:
        count: neighbours; with n of them a busy victim is left 1 / (n + 1) of the core.
        victim: its pid; it is held to one of the cores that it may use, and gets them all back.
    """

    name = "CPU contention"

    def __init__(self, count: int, victim: int) -> None:
        if count < 1:
            raise ConfigError(f"{self.name}: found {count} neighbours, expected at least 1")
        self.count, self.victim = count, victim
        self._hogs: list[psutil.Popen] = []
        self._before: dict[int, set[int]] = {}
        self._core = -1
        self._began = 0.0
        self._waited_before = 0
        self._seen = Evidence(None, f"{self.name}: never entered")

    def _apply(self) -> None:
        self._hogs, self._before = [], {}
        self._core = self._one_core()
        for thread in _threads(self.victim):
            with contextlib.suppress(ProcessLookupError):
                self._before[thread] = os.sched_getaffinity(thread)
                os.sched_setaffinity(thread, {self._core})
        for _ in range(self.count):
            hog = psutil.Popen([sys.executable, "-c", _CODE], stdin=subprocess.DEVNULL, start_new_session=True)
            self._hogs.append(hog)
            os.sched_setaffinity(hog.pid, {self._core})
        self._wait_until_they_compute()
        self._began, self._waited_before = time.monotonic(), _waited_ns(self.victim)

    def _one_core(self) -> int:
        try:
            allowed = os.sched_getaffinity(self.victim)
        except ProcessLookupError as error:
            raise ConfigError(f"{self.name}: process {self.victim} is not there, expected a running one") from error
        except PermissionError as error:
            raise NotPermitted(f"{self.name}: process {self.victim} is another user's") from error
        return max(allowed)

    def _wait_until_they_compute(self) -> None:
        """An interpreter takes a moment to start, and that is no competition yet."""
        until = time.monotonic() + _START_S
        while any(_cpu_s(hog.pid) < 2 * _POLL_S for hog in self._hogs) and time.monotonic() < until:
            time.sleep(_POLL_S)

    def _undo(self) -> None:
        if self._hogs and self.is_on:
            self._seen = self._measured()
        for hog in self._hogs:
            hog.kill()
        for hog in self._hogs:
            hog.wait()
        for thread in self._held():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(thread, self._cores_of(thread))

    def _held(self) -> list[int]:
        """Threads of the victim that may use the one core alone now, and more before."""
        held = []
        for thread in _threads(self.victim) if self._before else ():
            with contextlib.suppress(ProcessLookupError):
                now = os.sched_getaffinity(thread)
                if now == {self._core} and now != self._cores_of(thread):
                    held.append(thread)
        return held

    def _cores_of(self, thread: int) -> set[int]:
        """What it might use before; one that was not there yet, what the victim's first thread might."""
        return self._before.get(thread) or self._before.get(self.victim, set())

    def _measured(self) -> Evidence:
        wall = max(1e-9, time.monotonic() - self._began)
        had = sum(_cpu_s(hog.pid) for hog in self._hogs) / wall
        waited = (_waited_ns(self.victim) - self._waited_before) / 1e9
        told = (
            f"{self.count} neighbours had {had:.0%} of a core in {wall:.1f} s; the victim waited {waited:.2f} s for it"
        )
        return Evidence(had >= _LEAST, f"{self.name}: {told}")

    def observed(self) -> Evidence:
        """Whether they had a real share of the core, by the kernel's account of their time."""
        return self._measured() if self.is_on and self._hogs else self._seen

    def gone(self) -> Evidence:
        """Whether none of them is in the kernel's table, and no thread of the victim is held to the core, read anew."""
        if not self._before:
            return Evidence(None, f"{self.name}: never entered")
        left = sum(hog.is_running() for hog in self._hogs)  # by pid and start: a pid that came again is a stranger's
        held = len(self._held())
        return Evidence(not left and not held, f"{self.name}: {left} neighbours left, {held} threads held")


def _threads(pid: int) -> Iterator[int]:
    """None where the process has ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for entry in sorted(Path(f"/proc/{pid}/task").iterdir()):
            yield int(entry.name)


def _cpu_s(pid: int) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def _waited_ns(pid: int) -> int:
    """Nanoseconds that the process was ready to run and did not; 0 where the kernel does not tell."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text("ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
