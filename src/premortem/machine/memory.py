"""What a process holds, what it may still take, and by which limit. Bytes everywhere; None is unknown.

Covered: resident memory and its peak, of a process and of a tree; the limits of the group and of all above it,
RLIMIT_AS, RLIMIT_DATA, and what the machine has. Elsewhere than on Linux psutil gives residents and the machine's
memory, the rest is unknown. Not covered: memory of devices (`devices.py`); swap, which is no room for training.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from pathlib import Path

import psutil

from premortem.machine.cgroup import cgroup_of
from premortem.machine.files import UNLIMITED, field, read_bytes

PAGE = mmap.PAGESIZE


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit on a process: `allowed` in all, of which `used` is taken; `by` names it for a person."""

    by: str
    allowed: int
    used: int

    @property
    def left(self) -> int:
        """Bytes until it is reached; never negative."""
        return max(0, self.allowed - self.used)

    @property
    def share(self) -> float:
        """Used over allowed."""
        return self.used / self.allowed if self.allowed else 1.0


def resident(pid: int | None = None) -> int | None:
    """Bytes of a process that are in memory now; of this one without a pid."""
    text = read_bytes(f"/proc/{pid or 'self'}/statm")
    if text:
        return int(text.split()[1]) * PAGE
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None


def resident_of_tree(pid: int | None = None) -> int | None:
    """The same of a process and all below it. Pages that they share are counted once for each."""
    own = resident(pid)
    if own is None:
        return None
    try:
        below = psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        below = []
    return own + sum(resident(child.pid) or 0 for child in below)


def peak_resident(pid: int | None = None) -> int | None:
    """The most that was resident since the process began, or since :func:`reset_peak`."""
    found = field(read_bytes(f"/proc/{pid or 'self'}/status"), b"VmHWM:")
    return None if found is None else found << 10


def reset_peak(pid: int | None = None) -> bool:
    """Let the peak begin at what is resident now; False where the kernel or the rights do not allow it."""
    try:
        with open(f"/proc/{pid or 'self'}/clear_refs", "wb", buffering=0) as stream:
            stream.write(b"5")
    except OSError:
        return False
    return True


def available() -> int | None:
    """Bytes that the machine can give without swapping."""
    found = field(read_bytes("/proc/meminfo"), b"MemAvailable:")
    if found is not None:
        return found << 10
    try:
        return int(psutil.virtual_memory().available)
    except (psutil.Error, OSError, RuntimeError):
        return None


def limits(pid: int | None = None) -> tuple[Limit, ...]:
    """Every limit that holds for a process now, the one that leaves least first; none where nothing is known."""
    found = [*_group_limits(pid), *_process_limits(pid)]
    free, own = available(), resident(pid)
    if free is not None:
        found.append(Limit("memory of the machine", free + (own or 0), own or 0))
    return tuple(sorted(found, key=lambda limit: limit.left))


def room(pid: int | None = None) -> Limit | None:
    """How many bytes may this process still take, and by which limit: `room().left`, `room().by`; None: unknown."""
    return next(iter(limits(pid)), None)


def _group_limits(pid: int | None) -> list[Limit]:
    group = cgroup_of(pid or "self")
    found = []
    for one in group.line if group is not None else ():
        allowed, used = one.limit, one.working_set
        if allowed is not None and used is not None:
            found.append(Limit(f"memory limit of the cgroup {one.name}", allowed, used))
    return found


def _process_limits(pid: int | None) -> list[Limit]:
    """Soft limits of the process, as malloc meets them: an allocation fails, nobody is killed."""
    status = read_bytes(f"/proc/{pid or 'self'}/status")
    table = read_bytes(f"/proc/{pid or 'self'}/limits")
    found = []
    for by, row, used_key in (
        ("RLIMIT_AS", b"Max address space", b"VmSize:"),
        ("RLIMIT_DATA", b"Max data size", b"VmData:"),
    ):
        allowed, used = field(table, row), field(status, used_key)
        if allowed is not None and used is not None and allowed < UNLIMITED:
            found.append(Limit(by, allowed, used << 10))
    return found


def own_limits() -> dict[str, int | None]:
    """The soft RLIMIT_AS and RLIMIT_DATA of this process by name; None: unlimited, or unknown."""
    table = read_bytes(Path(f"/proc/{os.getpid()}/limits"))
    rows = {"RLIMIT_AS": b"Max address space", "RLIMIT_DATA": b"Max data size"}
    return {name: field(table, row) for name, row in rows.items()}
