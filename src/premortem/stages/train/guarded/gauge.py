"""How much memory a pass takes, and how much there is: on the host by its resident peak, on CUDA by its allocator.

Bytes everywhere. On the host a peak is what the kernel counted between two looks (VmHWM, reset before); where it may
not be reset, growth of the peak so far is all that can be seen. Other accelerators are measured as the host is.
"""

from __future__ import annotations

import gc
import math
from dataclasses import dataclass
from typing import Protocol

import torch

from premortem.machine.memory import peak_resident, reset_peak, resident
from premortem.machine.reader import MemoryReader
from premortem.machine.relief import free_in_heap, give_back, trim

_MACHINE = "memory of the machine"


@dataclass(frozen=True, slots=True)
class Look:
    """``used`` of ``allowed`` bytes, by the limit that leaves least; ``is_set``: somebody set it, no mere size."""

    used: int
    allowed: int
    by: str
    is_set: bool
    own: int | None = None
    """What this process holds of it, where others share what is used."""

    @property
    def held_share(self) -> float:
        """What a leak of this run's would make grow, as a share; of the machine's memory others' growth is not ours."""
        return (self.used if self.is_set or self.own is None else self.own) / self.allowed

    @property
    def raises(self) -> bool:
        """Whether more of it is refused by an exception, and nobody is killed."""
        return self.by.startswith("RLIMIT")

    @property
    def left(self) -> int:
        """Bytes until the limit; never negative."""
        return max(0, self.allowed - self.used)


class Gauge(Protocol):
    """Reads one kind of memory."""

    raises: bool
    """Whether too much of it raises an exception for certain; else the kernel may kill."""

    def look(self) -> Look | None:
        """What is used now, of what; ``None`` where it is unknown."""
        ...

    def begin(self) -> None:
        """A pass begins: peaks count from here."""
        ...

    def grown(self) -> int | None:
        """Bytes by which use rose at most since :meth:`begin`; ``None`` where it cannot be seen."""
        ...

    def trim(self) -> None:
        """Give free pages back that would not all be used again; cheap enough for every pass near a limit."""
        ...

    def tidy(self) -> None:
        """Collect, then trim: what is used is then really used."""
        ...


class HostMemory:
    """The memory of this process."""

    raises = False

    def __init__(self, budget: float = math.inf) -> None:
        self._reader = MemoryReader()
        self._budget = budget
        self._start: int | None = None

    def look(self) -> Look | None:
        """By the tightest of control groups, RLIMIT_AS, RLIMIT_DATA and the machine's own memory."""
        found = self._reader.read()
        look = None
        if found.used is not None and found.allowed is not None:
            used = found.used
            if found.by.startswith("RLIMIT"):
                used = max(0, used - free_in_heap())  # it counts addresses: what malloc keeps, it can use again
            look = Look(used, found.allowed, found.by, found.by != _MACHINE, found.resident)
        return _within(look, found.resident, self._budget)

    def begin(self) -> None:
        """Let the resident peak begin here."""
        self._start = resident() if reset_peak() else peak_resident()

    def grown(self) -> int | None:
        """Resident peak since, beyond what was resident."""
        peak = peak_resident()
        return None if peak is None or self._start is None else max(0, peak - self._start)

    def trim(self) -> None:
        """Let malloc give its free pages back: what it keeps is too scattered for the next pass to use all of it."""
        trim()

    def tidy(self) -> None:
        """Collect what is unreachable, then trim."""
        give_back()


class CudaMemory:
    """The memory of one CUDA device. Not tried on a GPU here."""

    raises = True

    def __init__(self, device: torch.device, budget: float = math.inf) -> None:
        self._device = device
        self._budget = budget
        self._start = 0

    def look(self) -> Look | None:
        """What this process may still allocate: by its fraction where one is set, else by what is free."""
        used = torch.cuda.memory_allocated(self._device)
        free, total = torch.cuda.mem_get_info(self._device)
        # what the allocator holds for later is its own to give
        allowed = free + torch.cuda.memory_reserved(self._device)
        fraction = torch.cuda.get_per_process_memory_fraction(self._device)
        capped = int(total * fraction)
        is_set = fraction < 1.0 and capped < allowed
        by = "memory fraction of the process" if is_set else f"memory of {self._device}"
        return _within(Look(used, capped if is_set else allowed, by, is_set), used, self._budget)

    def begin(self) -> None:
        """Let the allocator's peak begin here."""
        torch.cuda.reset_peak_memory_stats(self._device)
        self._start = torch.cuda.memory_allocated(self._device)

    def grown(self) -> int | None:
        """The allocator's peak since, beyond what was allocated."""
        return max(0, torch.cuda.max_memory_allocated(self._device) - self._start)

    def trim(self) -> None:
        """Nothing: torch's allocator uses its free blocks again, and gives them back before it fails."""

    def tidy(self) -> None:
        """Collect what is unreachable and give cached blocks back."""
        gc.collect()
        torch.cuda.empty_cache()


def gauge_of(device: torch.device, budget: float = math.inf) -> Gauge:
    """The gauge for a model that lies there; ``budget``: bytes that the run shall keep to, whatever there is."""
    return CudaMemory(device, budget) if device.type == "cuda" else HostMemory(budget)


def _within(look: Look | None, own: int | None, budget: float) -> Look | None:
    """The budget is a limit like any other, on what this process itself uses."""
    if own is None or math.isinf(budget) or (look is not None and look.left <= budget - own):
        return look
    return Look(own, int(budget), "memory budget", is_set=True)
