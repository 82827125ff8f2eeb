"""Batches that are disturbed on their way from a data source to the workload; the source keeps its own.

A batch is a tensor, or a tuple, list or mapping of batches. Tensors are seen on whatever device they are.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, MutableMapping, Sized
from typing import Generic, TypeVar, cast

import torch
from torch import Tensor

from premortem.core.errors import ConfigError
from premortem.faults.disturbance import Disturbance
from premortem.faults.fault import Evidence

B = TypeVar("B")
Part = str | int
"""The key of a mapping, or the index of a tuple, of one tensor in a batch."""


def map_tensors(batch: B, change: Callable[[Tensor], Tensor]) -> B:
    """The same structure with every tensor changed; other leaves (texts, ids) are kept."""
    if isinstance(batch, Tensor):
        return cast(B, change(batch))
    if isinstance(batch, Mapping):
        changed = {key: map_tensors(value, change) for key, value in batch.items()}
        if not isinstance(batch, MutableMapping):
            return cast(B, changed)
        twin = copy.copy(batch)  # keeps classes such as BatchEncoding
        twin.update(changed)
        return cast(B, twin)
    if isinstance(batch, tuple | list):
        parts = [map_tensors(value, change) for value in batch]
        make = getattr(batch, "_make", type(batch))  # a named tuple takes no list
        return cast(B, make(parts))
    return batch


def tensors_of(batch: object) -> list[Tensor]:
    """Every tensor of a batch, in its order."""
    if isinstance(batch, Tensor):
        return [batch]
    inner = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else ()
    return [tensor for value in inner for tensor in tensors_of(value)]


def change_part(batch: B, part: Part | None, change: Callable[[Tensor], Tensor]) -> B:
    """Change the tensors under `part` alone, or all where it is None. Raises ConfigError if unknown."""
    if part is None:
        return map_tensors(batch, change)
    if isinstance(batch, Mapping) and part in batch:
        twin = cast(MutableMapping[Part, object], copy.copy(batch))
        twin[part] = map_tensors(batch[part], change)
        return cast(B, twin)
    if isinstance(batch, tuple | list) and isinstance(part, int) and -len(batch) <= part < len(batch):
        parts = list(batch)
        parts[part] = map_tensors(parts[part], change)
        return cast(B, getattr(batch, "_make", type(batch))(parts))
    allowed = list(batch) if isinstance(batch, Mapping) else f"an index of this {type(batch).__name__}"
    raise ConfigError(f"batch part {part!r} not found, expected {allowed}; name one of these, or None for all")


def num_differing(one: object, other: object) -> int:
    """Elements whose bytes differ, over all tensors of two batches of one structure; NaN equals NaN."""
    return sum(_num_differing(a, b) for a, b in zip(tensors_of(one), tensors_of(other), strict=True))


def _num_differing(a: Tensor, b: Tensor) -> int:
    if a.shape != b.shape or a.dtype != b.dtype:
        return max(a.numel(), b.numel())
    rows = [t.detach().contiguous().reshape(-1, 1).view(torch.uint8) for t in (a, b)]
    return int((rows[0] != rows[1]).any(dim=1).sum())


def num_non_finite(batch: object) -> int:
    """NaN and infinite elements over all floating-point tensors of a batch."""
    return sum(int((~t.isfinite()).sum()) for t in tensors_of(batch) if t.is_floating_point())


class DisturbedBatches(Disturbance, Generic[B]):
    """Iterates `batches`, handing out disturbed copies at the steps of `at` (None: always) while it is on.

    Steps count batches handed out over the fault's life, from 0: a replay after a rollback meets later steps.
    A workload that fetches batch `step` by itself calls `hand_out(batch, step)`: a replay meets it again.
    """

    def __init__(self, batches: Iterable[B], at: Container[int] | None = None) -> None:
        self.batches, self.at = batches, at
        self.num_handed_out = 0
        self.num_disturbed = 0
        self.num_changed = 0
        self.num_non_finite = 0
        self._live = False
        self._sample: tuple[int, B] | None = None
        self._source_hurt = 0

    @abstractmethod
    def _disturb(self, batch: B, step: int) -> B:
        """A disturbed copy; the batch must stay as it is. Raises ConfigError where nothing can be hit."""

    def __iter__(self) -> Iterator[B]:
        for batch in self.batches:
            step = self.num_handed_out
            self.num_handed_out += 1
            yield self.hand_out(batch, step)

    def __len__(self) -> int:
        return len(cast(Sized, self.batches))

    def hand_out(self, batch: B, step: int) -> B:
        """What the workload gets at `step`: the batch itself, or its disturbed copy, then measured."""
        if not self._live or (self.at is not None and step not in self.at):
            return batch
        clean = map_tensors(batch, Tensor.clone)
        disturbed = self._disturb(batch, step)
        changed = num_differing(clean, disturbed)
        self._source_hurt += num_differing(clean, batch)
        if changed:
            self._sample = self._sample or (step, clean)
            self.num_disturbed += 1
            self.num_changed += changed
            self.num_non_finite += num_non_finite(disturbed)
        return disturbed

    def _apply(self) -> None:
        self.num_disturbed = self.num_changed = self.num_non_finite = self._source_hurt = 0
        self._sample, self._live = None, True

    def _undo(self) -> None:
        self._live = False

    def observed(self) -> Evidence:
        """Whether handed-out batches really differed from the source's, by their bytes."""
        detail = f"{self.name}: {self.num_changed} elements changed in {self.num_disturbed} batches handed out"
        return Evidence(self.num_disturbed > 0, detail)

    def gone(self) -> Evidence:
        """Hands out a disturbed batch once more: it must come clean, and the source be unhurt."""
        if self._sample is None:
            return Evidence(None, f"{self.name}: no batch was disturbed, nothing to probe with")
        if self._source_hurt:
            return Evidence(False, f"{self.name}: {self._source_hurt} elements of the source itself were changed")
        step, clean = self._sample
        counts = self.num_disturbed, self.num_changed, self.num_non_finite
        changed = num_differing(clean, self.hand_out(map_tensors(clean, Tensor.clone), step))
        self.num_disturbed, self.num_changed, self.num_non_finite = counts
        return Evidence(changed == 0, f"{self.name}: batch {step} handed out again, {changed} elements changed")
