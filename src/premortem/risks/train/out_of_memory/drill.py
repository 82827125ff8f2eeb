"""A small language model under a real limit: one that kills without a word, or one that refuses.

Each arm is a process in a memory group of its own. A limit leaves room for what the healthy run needs, and not for
what the fault asks for.
"""

from __future__ import annotations

import gc
import math
import mmap
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from premortem.core.drill import Bounds
from premortem.faults.batches import DisturbedBatches
from premortem.faults.disturbance import Disturbance
from premortem.faults.fault import Evidence, Fault
from premortem.faults.memory import AddressSpaceLimit, MemoryLimit
from premortem.machine.memory import resident
from premortem.risks.case import TrainingCase
from premortem.stages.train.lm import LanguageModelConfig
from premortem.stages.train.trainable import Trainable, small_language_model

MIB = 1 << 20
AT = 14
STEPS = 96
BATCH = 32
"""A pass over it takes about 21 MiB."""
OPTIONS = {"save_every": 4, "probation": 8}
"""A run this short has something healthy to be held against before its fault comes."""


def small(seed: int) -> Trainable:
    """The drill's language model, for a short while on larger batches."""
    return small_language_model(seed, batch_size=BATCH, num_steps=STEPS)


PLANNED = LanguageModelConfig(num_layers=1, ffn_width=128)
"""Half of its parameters (57,600 of 117,000)."""


def planned(seed: int) -> Trainable:
    """What the limit that refuses was set for."""
    return small_language_model(seed, batch_size=BATCH, num_steps=STEPS, model=PLANNED)


class Together(DisturbedBatches[Tensor]):
    """The batch comes together with those before it, ``times`` in all, under a limit that kills.

    As when a batch of 32 is set where 16 was meant, or an accumulation that collects batches and not gradients.
    """

    name = "batches at once"

    def __init__(self, times: int, growth_bytes: int) -> None:
        super().__init__(())
        self._times = times
        self._limit = MemoryLimit(growth_bytes)
        self._former: list[Tensor] = []

    def _apply(self) -> None:
        super()._apply()
        self._limit.__enter__()

    def _undo(self) -> None:
        super()._undo()
        self._limit.remove()

    def _disturb(self, batch: Tensor, step: int) -> Tensor:
        self._former = [*self._former, batch][-self._times :]
        return torch.cat([self._former[i % len(self._former)] for i in range(self._times)])

    def observed(self) -> Evidence:
        """Whether larger batches were handed out, and the kernel had taken the limit."""
        return _both(super().observed(), self._limit.observed())

    def gone(self) -> Evidence:
        """Whether batches come as they are, and the limit is as before."""
        return _both(super().gone(), self._limit.gone())


class Garbage(DisturbedBatches[Tensor]):
    """Each batch leaves garbage in a cycle while nobody collects, under a limit that kills."""

    name = "garbage that nobody collects"

    def __init__(self, bytes_a_batch: int, growth_bytes: int) -> None:
        super().__init__(())
        self._bytes = bytes_a_batch
        self._limit = MemoryLimit(growth_bytes)
        self._before = 0
        self._grown = 0

    def _apply(self) -> None:
        super()._apply()
        self._limit.__enter__()
        gc.disable()
        self._before = resident() or 0

    def _undo(self) -> None:
        super()._undo()
        gc.enable()
        gc.collect()
        self._limit.remove()

    def hand_out(self, batch: Tensor, step: int) -> Tensor:
        """The batch as it is; what it leaves behind is the fault."""
        if self.is_on:
            # memory of its own, as of a mapped file: malloc would serve it from what it keeps, unseen for many steps
            cycle: list[Any] = [torch.frombuffer(mmap.mmap(-1, self._bytes), dtype=torch.uint8).fill_(1)]
            cycle.append(cycle)
            self._grown = max(self._grown, (resident() or 0) - self._before)
        return batch

    def _disturb(self, batch: Tensor, step: int) -> Tensor:
        return batch

    def observed(self) -> Evidence:
        """Whether resident memory really grew by several batches' garbage, under the limit."""
        grew = Evidence(self._grown > 4 * self._bytes, f"{self.name}: resident memory grew by {self._grown} bytes")
        return _both(grew, self._limit.observed())

    def gone(self) -> Evidence:
        """Whether garbage is collected again, and the limit is as before."""
        return _both(Evidence(gc.isenabled(), f"{self.name}: collection is on: {gc.isenabled()}"), self._limit.gone())


def _both(one: Evidence, other: Evidence) -> Evidence:
    holds = None if None in (one.holds, other.holds) else bool(one.holds and other.holds)
    return Evidence(holds, f"{one.detail}; {other.detail}")


def twice(run: Trainable, folder: Path) -> Fault:
    """64 samples where 32 were planned."""
    return Together(2, 12 * MIB)


def accumulation_broken(run: Trainable, folder: Path) -> Fault:
    """Four micro-batches in one."""
    return Together(4, 24 * MIB)


def garbage(run: Trainable, folder: Path) -> Fault:
    """2 MiB a step: the limit is reached after some forty, a pass itself taken into account."""
    return Garbage(2 * MIB, 100 * MIB)


def refuses(run: Trainable, folder: Path) -> Disturbance:
    """Allocations fail beyond what the planned model would have needed."""
    return AddressSpaceLimit(REFUSED_MIB * MIB, beyond_use=True)


REFUSED_MIB = 14
BOUNDS = Bounds(detect_within=4, tolerance=0.10)

CASES = (
    TrainingCase(name="twice the batch", build=small, fault=twice, at=AT, lasts=math.inf, bounds=BOUNDS,
                 options=OPTIONS, confined=True),
    TrainingCase(name="accumulation that does not work", build=small, fault=accumulation_broken, at=AT,
                 lasts=math.inf, bounds=BOUNDS, options=OPTIONS, confined=True),
    TrainingCase(name="twice the parameters", build=small, fault=refuses, at=1, lasts=math.inf,
                 bounds=BOUNDS, options=OPTIONS, confined=True),
    TrainingCase(name="garbage that nobody collects", build=small, fault=garbage, at=AT, lasts=math.inf,
                 bounds=Bounds(detect_within=36, tolerance=0.10), options=OPTIONS, confined=True),
)  # fmt: skip
