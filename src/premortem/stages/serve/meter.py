"""How much memory the worker holds at most, and how near that is to the limit that would end it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from premortem.machine import memory

GB = 1e9


@dataclass(frozen=True, slots=True)
class Held:
    """Since the last reading: the most that was held in GB (10⁹ bytes), and as a share of the tightest limit.

    ``None`` is unknown, and no limit is unknown too.
    """

    used_gb: float | None
    share: float | None


class Meter(Protocol):
    """Something that measures memory."""

    def read(self) -> Held:
        """The most since the last reading."""
        ...


class HostMemory:
    """Resident memory of this process, with the peak between two readings where the kernel tells it.

    A batch's activations are gone again when it is answered: what is resident between two batches does not show
    them. The peak on top of what a limit counts now is an upper bound, as another process may have peaked elsewhere.
    """

    def __init__(self) -> None:
        self._has_peak = memory.reset_peak()

    def read(self) -> Held:
        """The peak, which then begins anew."""
        now = memory.resident()
        peak = memory.peak_resident() if self._has_peak else now
        memory.reset_peak()
        if now is None or peak is None:
            return Held(None, None)
        above = max(0, peak - now)
        shares = [(limit.used + above) / limit.allowed for limit in memory.limits() if limit.allowed]
        return Held(peak / GB, max(shares, default=None))


class DeviceMemory:
    """Memory that torch's allocator holds on one device; the limit is the device, or the fraction that was set.

    Not covered: what other processes hold there counts as used, and its peak is not seen.
    """

    def __init__(self, device: torch.device | str) -> None:
        self._device = torch.device(device)
        torch.cuda.reset_peak_memory_stats(self._device)

    def read(self) -> Held:
        """The peak, which then begins anew."""
        peak = torch.cuda.max_memory_reserved(self._device)
        now = torch.cuda.memory_reserved(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        free, total = torch.cuda.mem_get_info(self._device)
        mine = torch.cuda.get_per_process_memory_fraction(self._device) * total
        shares = ((total - free + peak - now) / total, peak / mine)
        return Held(peak / GB, max(shares))


def meter_for(device: torch.device | str) -> Meter:
    """Of the memory that the model computes in."""
    return DeviceMemory(device) if torch.device(device).type == "cuda" else HostMemory()
