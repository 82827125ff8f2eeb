"""Memory that really runs short: a limit that kills, a limit that refuses, a leak, a smaller device.

Covered: this process or its children, on Linux; a device of CUDA by torch's own allocator. Not covered: other
people's processes; pressure by swapping; memory that a device's other users take.
"""

from __future__ import annotations

import mmap
import os
import resource

from premortem.core.errors import ConfigError
from premortem.faults.disturbance import Disturbance
from premortem.faults.fault import Evidence, NotPermitted
from premortem.faults.group import MemoryGroup, write
from premortem.faults.owner import PREFIX
from premortem.machine import memory
from premortem.machine.cgroup import Cgroup, cgroup_of
from premortem.machine.files import UNLIMITED, field, read_bytes
from premortem.machine.relief import free_in_heap

MIB = 1 << 20
_SLACK = 8 * MIB


class MemoryLimit(Disturbance):
    """The kernel kills this process once it has grown by `growth_bytes` since now.

    In a confined drill the process is in a group that its parent owns and watches: that one gets the limit. Else a
    group is made, this process moved in, and moved back afterwards. Raises NotPermitted where rights lack.
    """

    name = "memory limit"

    def __init__(self, growth_bytes: int) -> None:
        if growth_bytes <= 0:
            raise ConfigError(f"memory limit: growth_bytes is {growth_bytes}, expected more than 0")
        self.growth_bytes = growth_bytes
        self._own: MemoryGroup | None = None
        self._former: Cgroup | None = None
        self._group: Cgroup | None = None
        self._before: int | None = None
        self._seen = Evidence(None, "memory limit: never entered")

    def _apply(self) -> None:
        here = cgroup_of()
        if here is not None and here.folder.name.startswith(f"{PREFIX}-memory-"):
            self._group, self._before = here, here.limit
        else:
            self._own, self._former = MemoryGroup(), here
            self._own.__enter__()
            self._group = self._own.group
            self._own.join(os.getpid())
        allowed = (self._group.working_set or 0) + self.growth_bytes
        self._set(allowed)
        there = self._group.limit
        kept = there is not None and abs(there - allowed) <= mmap.PAGESIZE and cgroup_of() == self._group
        self._seen = Evidence(kept, f"memory limit: {self._group.name} allows {there} bytes, asked for {allowed}")

    def _set(self, limit: int | None) -> None:
        assert self._group is not None
        none = "-1" if self._group.version == 1 else "max"
        write(self._group.file("limit"), none if limit is None else limit)

    def _undo(self) -> None:
        if self._own is not None:
            if self._former is not None and self._own.is_on and cgroup_of() == self._group:
                write(self._former.folder / "cgroup.procs", os.getpid())
            self._own.remove()
        elif self._group is not None:
            self._set(self._before)

    def observed(self) -> Evidence:
        """Whether this process was in the group and the kernel had taken the limit, read back."""
        return self._seen

    def gone(self) -> Evidence:
        """Whether this process is under no limit of this fault: its group as before, or back in its former one."""
        if self._group is None:
            return Evidence(None, "memory limit: never entered")
        if self._own is not None:
            back = cgroup_of() == self._former
            left = self._own.gone()
            return Evidence(back and left.holds, f"memory limit: {'' if back else 'not '}back; {left.detail}")
        return Evidence(self._group.limit == self._before, f"memory limit: {self._group.name} has {self._group.limit}")


class AddressSpaceLimit(Disturbance):
    """Allocations of this process fail (MemoryError) once it has grown by `growth_bytes`; nobody is killed.

    `which`: `RLIMIT_DATA` counts private writable memory, `RLIMIT_AS` every mapping. `beyond_use`: growth is counted
    from what is in use, so that what malloc keeps for later is part of it and not a cushion of unknown size. Children
    started meanwhile inherit it.
    """

    name = "address space limit"
    _KINDS = {"RLIMIT_DATA": (resource.RLIMIT_DATA, "VmData"), "RLIMIT_AS": (resource.RLIMIT_AS, "VmSize")}

    def __init__(self, growth_bytes: int, which: str = "RLIMIT_DATA", *, beyond_use: bool = False) -> None:
        if growth_bytes <= 0 or which not in self._KINDS:
            kinds = ", ".join(self._KINDS)
            raise ConfigError(f"{self.name}: found {growth_bytes}, {which!r}; expected bytes above 0, one of {kinds}")
        self.growth_bytes, self.which, self.beyond_use = growth_bytes, which, beyond_use
        self._number, self._row = self._KINDS[which]
        self._before: int | None = None
        self._seen = Evidence(None, f"{self.name}: never entered")

    def _apply(self) -> None:
        size = _status(self._row)
        if size is None:
            raise NotPermitted(f"{self.name}: found no size in /proc/self/status; run this on Linux")
        soft, hard = resource.getrlimit(self._number)
        allowed = size - (free_in_heap() if self.beyond_use else 0) + self.growth_bytes
        if hard != resource.RLIM_INFINITY and allowed > hard:
            raise NotPermitted(f"{self.name}: {allowed} is above the hard limit {hard}; ask for less")
        resource.setrlimit(self._number, (allowed, hard))
        self._before = soft
        refused = _refuses(self.growth_bytes + _SLACK)
        self._seen = Evidence(refused, f"{self.name}: {self.which} {allowed}, more was {_word(refused)}")

    def _undo(self) -> None:
        if self._before is not None:
            resource.setrlimit(self._number, (self._before, resource.getrlimit(self._number)[1]))

    def observed(self) -> Evidence:
        """Whether an allocation beyond it was really refused."""
        return self._seen

    def gone(self) -> Evidence:
        """Whether the soft limit is as before and the same allocation works again."""
        if self._before is None:
            return Evidence(None, f"{self.name}: never entered")
        soft = resource.getrlimit(self._number)[0]
        if soft != self._before:
            return Evidence(False, f"{self.name}: {self.which} is {soft}, was {self._before}")
        unlimited = self._before < 0 or self._before >= UNLIMITED
        refused = _refuses(self.growth_bytes + _SLACK)
        if refused and not unlimited:
            return Evidence(None, f"{self.name}: {self.which} is as before, and refuses that much by itself")
        return Evidence(not refused, f"{self.name}: {self.which} as before, more was {_word(refused)}")


class Leak(Disturbance):
    """Takes memory and holds it, touched page by page: `bytes_per_call` at each `leak()`, up to `at_most`."""

    name = "leak"

    def __init__(self, bytes_per_call: int, at_most: int | None = None) -> None:
        if bytes_per_call <= 0:
            raise ConfigError(f"leak: bytes_per_call is {bytes_per_call}, expected more than 0")
        self.bytes_per_call, self.at_most = bytes_per_call, at_most
        self._blocks: list[mmap.mmap] = []
        self._grown = 0
        self._most = 0
        self._gone = Evidence(None, "leak: never entered")

    @property
    def held(self) -> int:
        """Bytes that it holds now."""
        return sum(len(block) for block in self._blocks)

    def leak(self) -> int:
        """Take some more; returns what is held. Does nothing while the fault is off, or at its most."""
        if self.is_on and (self.at_most is None or self.held + self.bytes_per_call <= self.at_most):
            before = memory.resident() or 0
            block = mmap.mmap(-1, self.bytes_per_call, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            self._blocks.append(block)
            for at in range(0, self.bytes_per_call, mmap.PAGESIZE):
                block[at] = 1
            self._grown += (memory.resident() or 0) - before
            self._most = max(self._most, self.held)
        return self.held

    def _apply(self) -> None:
        self._grown = self._most = 0

    def _undo(self) -> None:
        before, held = memory.resident() or 0, self.held
        while self._blocks:
            self._blocks.pop().close()
        freed = before - (memory.resident() or 0)
        self._gone = Evidence(freed >= held // 2, f"leak: {freed} bytes less are resident after {held} were let go")

    def observed(self) -> Evidence:
        """Whether resident memory really grew by what was taken."""
        if self._most == 0:
            return Evidence(False, "leak: nothing was taken")
        real = self._grown >= self._most // 2
        return Evidence(real, f"leak: resident memory grew by {self._grown} bytes for {self._most} held")

    def gone(self) -> Evidence:
        """Whether resident memory fell again when it was let go."""
        if self._blocks:
            return Evidence(False, f"leak: {self.held} bytes are still held")
        return self._gone


class DeviceFraction(Disturbance):
    """This process may use only `fraction` of a device's memory: more is torch's OutOfMemoryError.

    Raises NotPermitted without such a device. Written against torch's documentation; what was run on a real device
    is said in `docs/machine.md`.
    """

    name = "device memory fraction"

    def __init__(self, fraction: float, device: int = 0) -> None:
        if not 0.0 < fraction <= 1.0:
            raise ConfigError(f"{self.name}: found {fraction}, expected more than 0 and at most 1")
        self.fraction, self.device = fraction, device
        self._seen = Evidence(None, f"{self.name}: never entered")

    def _apply(self) -> None:
        import torch

        if not torch.cuda.is_available() or self.device >= torch.cuda.device_count():
            raise NotPermitted(f"{self.name}: found no device {self.device} of CUDA; run this where there is one")
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(self.fraction, self.device)
        refused = self._refuses_more()
        self._seen = Evidence(refused, f"{self.name}: beyond {self.fraction} of device {self.device}: {_word(refused)}")

    def _refuses_more(self) -> bool:
        import torch

        total = torch.cuda.get_device_properties(self.device).total_memory
        size = int(total * self.fraction) - torch.cuda.memory_reserved(self.device) + 32 * MIB
        try:
            torch.empty(max(size, MIB), dtype=torch.uint8, device=f"cuda:{self.device}")
        except torch.OutOfMemoryError:
            return True
        finally:
            torch.cuda.empty_cache()
        return False

    def _undo(self) -> None:
        import torch

        if torch.cuda.is_available():
            torch.cuda.set_per_process_memory_fraction(1.0, self.device)

    def observed(self) -> Evidence:
        """Whether an allocation beyond the fraction was really refused."""
        return self._seen

    def gone(self) -> Evidence:
        """Whether the same allocation works again; None where others hold that memory."""
        if self._seen.holds is None:
            return Evidence(None, f"{self.name}: never entered")
        refused = self._refuses_more()
        return Evidence(None if refused else True, f"{self.name}: set back to all; more was {_word(refused)}")


def _word(refused: object) -> str:
    return "refused" if refused else "accepted"


def _status(row: str) -> int | None:
    """A size of this process in bytes."""
    found = field(read_bytes("/proc/self/status"), f"{row}:".encode())
    return None if found is None else found << 10


def _refuses(size: int) -> bool:
    """Whether the kernel refuses a private mapping of so many bytes; it is never touched."""
    try:
        mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError:
        return True
    return False
