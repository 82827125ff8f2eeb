"""Memory a step at a time: every file is opened once, and a move into another group or a new limit is noticed.

Measured on a busy core: see `docs/machine.md`. Belongs to the process that made it; after a fork make another.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass

from premortem.machine.cgroup import Cgroup, cgroup_of
from premortem.machine.files import UNLIMITED, OpenFile, field, number
from premortem.machine.memory import PAGE

_RLIMITS = (("RLIMIT_AS", resource.RLIMIT_AS, b"VmSize:"), ("RLIMIT_DATA", resource.RLIMIT_DATA, b"VmData:"))


@dataclass(frozen=True, slots=True)
class Reading:
    """One look. `used`, `allowed` (bytes) and `share` are of the limit named `by`; None is unknown."""

    resident: int | None
    used: int | None = None
    allowed: int | None = None
    share: float | None = None
    by: str = ""

    @property
    def left(self) -> int | None:
        """Bytes until that limit; never negative."""
        return None if self.allowed is None or self.used is None else max(0, self.allowed - self.used)


class _Group:
    """The open files of one group."""

    __slots__ = ("_limit", "_stat", "_usage", "by", "inactive_key")

    def __init__(self, group: Cgroup) -> None:
        self.by = f"memory limit of the cgroup {group.name}"
        self.inactive_key = group.inactive_key
        self._limit, self._usage = OpenFile(group.file("limit")), OpenFile(group.file("usage"))
        self._stat = OpenFile(group.folder / "memory.stat")

    def read(self) -> tuple[int, int, str] | None:
        """Used, allowed, by; None where it has no limit."""
        allowed = number(self._limit.read())
        usage = None if allowed is None else number(self._usage.read())
        if allowed is None or usage is None:
            return None
        return max(0, usage - (field(self._stat.read(), self.inactive_key) or 0)), allowed, self.by


class MemoryReader:
    """Reads the memory of one process, this one without a pid, at the cost of some system calls."""

    def __init__(self, pid: int | None = None) -> None:
        self.pid = pid
        self._home = f"/proc/{pid or 'self'}"
        self._statm = OpenFile(f"{self._home}/statm")
        self._status = OpenFile(f"{self._home}/status")
        self._member = OpenFile(f"{self._home}/cgroup")
        self._machine = OpenFile("/proc/meminfo")
        self._member_of: bytes | None = None
        self._groups: tuple[_Group, ...] = ()

    def read(self) -> Reading:
        """The present reading, by the limit of which least is left. Raises nothing."""
        statm = self._statm.read()
        try:
            own = int(statm.split()[1]) * PAGE if statm else None
        except (ValueError, IndexError):
            own = None
        if own is None:
            return Reading(None)
        self._follow()
        found = [taken for group in self._groups if (taken := group.read()) is not None]
        found += self._rlimits()
        free = field(self._machine.read(), b"MemAvailable:")
        if free is not None:
            found.append((own, own + (free << 10), "memory of the machine"))
        if not found:
            return Reading(own)
        used, allowed, by = min(found, key=lambda one: one[1] - one[0])
        return Reading(own, used, allowed, used / allowed if allowed else 1.0, by)

    def _follow(self) -> None:
        """The process may have been moved into another group since."""
        member = self._member.read()
        if member != self._member_of:
            group = cgroup_of(self.pid or "self")
            self._groups = tuple(_Group(one) for one in group.line) if group is not None else ()
            self._member_of = member

    def _rlimits(self) -> list[tuple[int, int, str]]:
        found = []
        for by, which, key in _RLIMITS:
            try:
                allowed = resource.prlimit(self.pid or 0, which)[0]
            except (OSError, AttributeError):
                continue
            if 0 <= allowed < UNLIMITED:
                used = field(self._status.read(), key)
                found += [] if used is None else [(used << 10, allowed, by)]
        return found

    def close(self) -> None:
        """Close what is open; a later read opens it again."""
        for file in (self._statm, self._status, self._member, self._machine):
            file.close()
        self._groups, self._member_of = (), None
