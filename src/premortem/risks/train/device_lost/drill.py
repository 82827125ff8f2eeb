"""A device that really refuses operations in the middle of a real training's steps.

The unguarded twin is a plain loop: its first exception ends it. Without an accelerator the CPU plays the device: what
is refused is refused to the same operations, by the same exception.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from premortem.core.drill import Bounds
from premortem.faults.device import DeviceBusy, DeviceLost
from premortem.faults.fault import Fault
from premortem.risks.case import TrainingCase
from premortem.stages.train.trainable import Trainable, small_language_model

AT = 200
WITHIN = Bounds(detect_within=1)
LOOKS = {"device_poll_s": 0.02, "save_every": 10}
"""A look takes a second on no device of the drill's; the default is a minute."""


def on_the_device(run: Trainable) -> Iterator[Tensor]:
    """Weights, buffers, and what the optimiser keeps for them."""
    yield from run.model.parameters()
    yield from run.model.buffers()
    for state in run.optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, Tensor))


def busy(run: Trainable, folder: Path) -> Fault:
    """Held by somebody else: every operation is refused, forty times."""
    return DeviceBusy(refusals=40)


def memory_lost(run: Trainable, folder: Path) -> Fault:
    """Reset by the driver: the device works, and what lay on it is gone."""
    return DeviceLost(lambda: on_the_device(run))


def lost_again(run: Trainable, folder: Path) -> Fault:
    """The device fails once more after the restore."""
    return DeviceLost(lambda: on_the_device(run), loses_again=1)


def torn(run: Trainable, folder: Path) -> Fault:
    """The memory goes while the optimiser moves the weights: the moments are refused, the weights are not."""

    def moments() -> Iterator[Tensor]:
        for state in run.optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor) and value.ndim)

    return DeviceLost(moments)


CASES = tuple(
    TrainingCase(name=name, build=small_language_model, fault=fault, at=AT, lasts=math.inf, bounds=WITHIN,
                 options=LOOKS)
    for name, fault in (
        ("device busy", busy), ("memory lost", memory_lost), ("lost again after the restore", lost_again),
        ("torn update", torn),
    )
)  # fmt: skip
