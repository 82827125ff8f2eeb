"""What is known of the device that a run computes on, as signals: lost, its memory lost, an update torn, room left.

Room is asked of the driver: total less one's own allocation is wrong on a device that others use, too.
"""

from __future__ import annotations

import torch
from torch import nn

from premortem.core.signal import Signal
from premortem.stages.train.guarded.moving import device_of

GIB = 1024.0**3
_ROOM_EVERY = 16

SIGNALS: tuple[Signal, ...] = (
    Signal("device_lost", "", help="1 at a look at a device that made the present step fail, else 0"),
    Signal("memory_lost", "", help="1 where the device works, and the memory of the weights does not answer"),
    Signal("torn_update", "", help="1 where the device failed within the optimiser's step: weights are half moved"),
    Signal("on_cpu", "", help="1 where the weights lie on the CPU, else 0"),
    Signal(
        "device_free", "GiB", higher_is_worse=False, help="free by the driver, and what this process holds in reserve"
    ),
)


class DeviceState:
    """The instrument: what is so, as the run last found it."""

    signals = SIGNALS

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._calls = 0
        self._room: float | None = None
        self.is_lost = False
        self.is_memory_lost = False
        self.is_torn = False

    def clear(self) -> None:
        """The step goes on."""
        self.is_lost = self.is_memory_lost = self.is_torn = False

    def values(self) -> list[float | None]:
        """In the order of :data:`SIGNALS`; room is ``None`` on the CPU, and while the device does not answer."""
        if self.is_lost:
            self._calls, self._room = 0, None
        elif self._calls % _ROOM_EVERY == 0:
            self._room = room_gib(device_of(self._model))
        self._calls += 1
        on_cpu = float(device_of(self._model).type == "cpu")
        return [float(self.is_lost), float(self.is_memory_lost), float(self.is_torn), on_cpu, self._room]


def room_gib(device: torch.device) -> float | None:
    """What this process may still use of a CUDA device, by the driver; ``None`` for other devices or no answer."""
    if device.type != "cuda":
        return None
    try:
        free, _ = torch.cuda.mem_get_info(device)
        return (free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)) / GIB
    except RuntimeError:
        return None
