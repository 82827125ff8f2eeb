"""A memory control group of our own: a real limit that the kernel keeps by killing, for chosen processes only.

Covered: cgroup version 1, and version 2 where the group above has the memory controller to hand on. A process that
is moved in brings nothing along: what it held stays charged where it was, so the limit is on its growth since.
Not covered: groups inside a container without the right to make any. After SIGKILL the group stays until the next
one is made, or `clean_groups()`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from pathlib import Path
from uuid import uuid4

from premortem.core.errors import ConfigError, StageError
from premortem.faults.disturbance import Disturbance
from premortem.faults.fault import Evidence, NotPermitted
from premortem.faults.owner import is_orphan, owned_name
from premortem.machine.cgroup import Cgroup, cgroup_of

_KIND = "memory"
_REMOVE_SECONDS = 5.0
_PROCS = "cgroup.procs"


def clean_groups() -> list[Path]:
    """Remove every group that a killed drill left, and kill what still runs in it; returns their folders."""
    above = _above()
    orphans = [] if above is None else [p for p in above.folder.glob("premortem-*") if is_orphan(p.name, _KIND)]
    for folder in orphans:
        _remove(folder)
    return orphans


def group_refusal() -> str:
    """Why no group can be made here, in one line; empty where one can."""
    try:
        with MemoryGroup():
            return ""
    except NotPermitted as error:
        return str(error)


class MemoryGroup(Disturbance):
    """A group that this process owns; `limit_bytes` may be set now or later, and others may join by pid.

    On leaving, what still runs in it is killed and the group removed. Raises NotPermitted where the machine or the
    rights do not allow one.
    """

    name = "memory group"

    def __init__(self, limit_bytes: int | None = None) -> None:
        _check(limit_bytes)
        self._first_limit = limit_bytes
        self._group: Cgroup | None = None
        self._kills_at_end: int | None = None
        self._limited = False

    @property
    def group(self) -> Cgroup:
        """Where it is. Raises ConfigError before it was entered."""
        if self._group is None:
            raise ConfigError("memory group: there is none yet; enter it first")
        return self._group

    def _apply(self) -> None:
        clean_groups()
        above = _above()
        if above is None:
            raise NotPermitted("memory group: found no memory controller of cgroups; run this on Linux with one")
        self._kills_at_end, self._limited = None, False
        folder = above.folder / f"{owned_name(_KIND)}-{uuid4().hex[:8]}"
        try:
            folder.mkdir()
        except OSError as error:
            raise _refused(folder, error) from error
        self._group = Cgroup(folder, above.mount, above.version)
        if not self._group.file("limit").exists():
            raise NotPermitted(f"memory group: {folder} has no memory controller; its parent must hand it on")
        if self._first_limit is not None:
            self.limit(self._first_limit)

    def join(self, pid: int) -> None:
        """Move a process in, with all of its threads; children that it starts from now on are in it too."""
        write(self.group.folder / _PROCS, pid)

    def limit(self, limit_bytes: int | None) -> None:
        """Set the limit on all that is charged to the group; None takes it away.

        Raises StageError where the group holds more already and the kernel cannot get it below.
        """
        _check(limit_bytes)
        none = "-1" if self.group.version == 1 else "max"
        write(self.group.file("limit"), none if limit_bytes is None else limit_bytes)
        self._limited = self._limited or limit_bytes is not None

    @property
    def used(self) -> int | None:
        """Bytes charged to it, page cache that may go left out."""
        return self.group.working_set

    @property
    def oom_kills(self) -> int | None:
        """How many the kernel has killed in it; the last count, once it is removed."""
        now = self.group.oom_kills
        return self._kills_at_end if now is None else now

    @property
    def pids(self) -> tuple[int, ...]:
        """Who is in it."""
        return _pids(self.group.folder)

    def _undo(self) -> None:
        if self._group is not None and self._group.folder.is_dir():
            kills = self._group.oom_kills
            self._kills_at_end = kills if kills is not None else self._kills_at_end
            _remove(self._group.folder)

    def observed(self) -> Evidence:
        """Whether the kernel really killed for memory in it, by the group's own counter."""
        if self._group is None:
            return Evidence(None, "memory group: never entered")
        kills = self.oom_kills
        if kills is None:
            return Evidence(None, f"memory group: {self._group.name} has no counter of kills")
        return Evidence(kills > 0, f"memory group: the kernel killed {kills} for memory in {self._group.name}")

    def gone(self) -> Evidence:
        """Whether its folder is away."""
        if self._group is None:
            return Evidence(None, "memory group: never entered")
        there = self._group.folder.exists()
        return Evidence(not there, f"memory group: {self._group.name} is {'still there' if there else 'removed'}")


def write(path: Path, value: int | str) -> None:
    """Write one value to a file of a group. Raises NotPermitted or StageError with what the kernel said."""
    try:
        path.write_text(str(value))
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise NotPermitted(f"memory group: writing {value} to {path} was refused: {error.strerror}") from error
        raise StageError(f"memory group: writing {value} to {path} failed: {error.strerror}") from error


def _check(limit_bytes: int | None) -> None:
    if limit_bytes is not None and limit_bytes <= 0:
        raise ConfigError(f"memory group: limit_bytes is {limit_bytes}, expected more than 0, or None for no limit")


def _refused(folder: Path, error: OSError) -> NotPermitted:
    return NotPermitted(
        f"memory group: {folder.parent} takes no new one: {error.strerror}; run as root, or in a delegated cgroup"
    )


def _above() -> Cgroup | None:
    """Where groups go. In version 2 a group with processes hands no controller on, so it is the one above."""
    own = cgroup_of()
    if own is None:
        return None
    if own.version == 1:
        return Cgroup(own.mount, own.mount, 1)
    return Cgroup(own.folder.parent if own.folder != own.mount else own.mount, own.mount, 2)


def _pids(folder: Path) -> tuple[int, ...]:
    try:
        return tuple(int(line) for line in (folder / _PROCS).read_text().split())
    except OSError:
        return ()


def _remove(folder: Path) -> None:
    """Kill what runs there, move nothing, remove the folder; the kernel takes a moment to let go of the dead."""
    until = time.monotonic() + _REMOVE_SECONDS
    while True:
        for pid in _pids(folder):
            _end(pid, folder)
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)
        else:
            return


def _end(pid: int, folder: Path) -> None:
    """Never this process itself: it goes back to the group above instead."""
    with contextlib.suppress(OSError):
        if pid == os.getpid():
            (folder.parent / _PROCS).write_text(str(pid))
        else:
            os.kill(pid, signal.SIGKILL)


class GroupLimit(Disturbance):
    """A limit on a whole group that stands already: who is in it may grow no further, and is killed if it does."""

    name = "limit on a memory group"

    def __init__(self, group: MemoryGroup, limit_bytes: int) -> None:
        _check(limit_bytes)
        self._on, self.limit_bytes = group, limit_bytes
        self._kills: int | None = None
        self._entered = False

    def _apply(self) -> None:
        self._kills, self._entered = self._on.oom_kills, True
        self._on.limit(self.limit_bytes)

    def _undo(self) -> None:
        if self._entered and self._on.is_on:
            self._on.limit(None)

    def observed(self) -> Evidence:
        """Whether the kernel killed for it since; None where the group keeps no count."""
        if not self._entered:
            return Evidence(None, f"{self.name}: never entered")
        now, before = self._on.oom_kills, self._kills
        if now is None or before is None:
            return Evidence(None, f"{self.name}: no counter of kills")
        return Evidence(now > before, f"{self.name}: {self.limit_bytes} bytes, the kernel killed {now - before}")

    def gone(self) -> Evidence:
        """Whether the group has no limit any more, or is removed."""
        if not self._entered:
            return Evidence(None, f"{self.name}: never entered")
        left = self._on.group.limit
        return Evidence(left is None, f"{self.name}: the group's limit is {left or 'none'}")
