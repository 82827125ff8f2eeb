"""Data that lies: wrong labels, corrupt rows, drawn from the given generator and the same at every replay.

Covered: class and real-valued labels; rows of any dtype. Not covered: duplicated, missing or reordered rows.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from premortem.core.errors import ConfigError
from premortem.faults.batches import B, DisturbedBatches, Part, change_part, tensors_of
from premortem.faults.fault import Evidence

Corruption = Literal["nan", "scrambled", "out of range"]


@dataclass(frozen=True, slots=True)
class RandomShare:
    """Each row or label is hit with probability `share` (0 < share <= 1), drawn from `rng` (on the CPU)."""

    share: float
    rng: torch.Generator

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ConfigError(f"random share: share is {self.share}, expected 0 < share <= 1")

    def seed(self) -> int:
        """One draw from the generator: the seed of all later choices."""
        return int(torch.randint(2**62, (), generator=self.rng))


def _rng_of(seed: int, step: int) -> torch.Generator:
    # Tied to the step, not to the order of calls: a replay after a rollback meets the same bad rows.
    return torch.Generator().manual_seed((seed + 0x9E3779B97F4A7C15 * step) % 2**63)


class LabelNoise(DisturbedBatches[B]):
    """A share of the labels in `part` becomes wrong: another of `num_classes`, uniformly.

    `num_classes=None` is for real-valued labels: each hit one takes the label of a random row of the batch.
    Negative class labels (such as -100, ignored by the loss) are left alone.
    """

    name = "label noise"

    def __init__(
        self,
        batches: Iterable[B],
        hits: RandomShare,
        part: Part,
        num_classes: int | None,
        at: Container[int] | None = None,
    ) -> None:
        super().__init__(batches, at)
        if num_classes is not None and num_classes < 2:
            raise ConfigError(f"label noise: num_classes is {num_classes}, expected 2 or more, or None")
        self.hits, self.part, self.num_classes = hits, part, num_classes
        self._seed = hits.seed()
        self._num_labels = 0

    def _apply(self) -> None:
        super()._apply()
        self._num_labels = 0

    def _disturb(self, batch: B, step: int) -> B:
        rng = _rng_of(self._seed, step)

        def change(labels: Tensor) -> Tensor:
            if labels.is_floating_point() != (self.num_classes is None):
                raise ConfigError(
                    f"label noise: labels in part {self.part!r} are {labels.dtype}, num_classes is "
                    f"{self.num_classes}; give num_classes for class labels, None for real-valued ones"
                )
            self._num_labels += labels.numel()
            mask = torch.rand(labels.shape, generator=rng) < self.hits.share
            wrong = self._wrong(labels, rng)
            return torch.where(mask.to(labels.device), wrong, labels)

        return change_part(batch, self.part, change)

    def _wrong(self, labels: Tensor, rng: torch.Generator) -> Tensor:
        if self.num_classes is None:
            rows = torch.randint(labels.shape[0], (labels.shape[0],), generator=rng)
            return labels[rows.to(labels.device)]
        shift = torch.randint(1, self.num_classes, labels.shape, generator=rng).to(labels.device)
        return torch.where(labels < 0, labels, (labels + shift) % self.num_classes).to(labels.dtype)

    def observed(self) -> Evidence:
        """How many of the labels handed out really differed from the source's."""
        detail = f"label noise: {self.num_changed} of {self._num_labels} labels changed"
        return Evidence(self.num_changed > 0, detail)


class CorruptRows(DisturbedBatches[B]):
    """A share of the rows (dim 0) of each tensor in `part` (None: all) is corrupted, in one of three ways.

    `nan`: all floats of the row are NaN. `scrambled`: the bytes of the row in random order. `out of range`:
    all integers of the row are the largest of their dtype, no valid token. Other dtypes are left alone.
    """

    name = "corrupt rows"

    def __init__(
        self,
        batches: Iterable[B],
        hits: RandomShare,
        how: Corruption,
        part: Part | None = None,
        at: Container[int] | None = None,
    ) -> None:
        super().__init__(batches, at)
        if how not in ("nan", "scrambled", "out of range"):
            raise ConfigError(f"corrupt rows: how is {how!r}, expected 'nan', 'scrambled' or 'out of range'")
        self.hits, self.how, self.part = hits, how, part
        self._seed = hits.seed()

    def _disturb(self, batch: B, step: int) -> B:
        rng = _rng_of(self._seed, step)
        num_rows = next((len(tensor) for tensor in tensors_of(batch) if tensor.dim() > 0), 0)
        mask = torch.rand(num_rows, generator=rng) < self.hits.share
        hit: list[Tensor] = []

        def change(tensor: Tensor) -> Tensor:
            if tensor.dim() == 0 or len(tensor) != num_rows or not self._fits(tensor):
                return tensor
            hit.append(tensor)
            rows = mask.nonzero().flatten()
            return self._corrupt(tensor.detach().clone(), rows.to(tensor.device), rng)

        corrupted = change_part(batch, self.part, change)
        if not hit:
            raise ConfigError(
                f"corrupt rows: no tensor of batch {step}, part {self.part!r}, can be made {self.how!r}; "
                "name another part, or another kind of corruption"
            )
        return corrupted

    def _fits(self, tensor: Tensor) -> bool:
        if self.how == "nan":
            return tensor.is_floating_point()
        # Scrambled bools would no longer be bools; complex rows have no meaning here.
        whole = not tensor.is_floating_point() and not tensor.is_complex() and tensor.dtype != torch.bool
        return whole or (self.how == "scrambled" and tensor.is_floating_point())

    def _corrupt(self, tensor: Tensor, rows: Tensor, rng: torch.Generator) -> Tensor:
        if self.how == "nan":
            tensor[rows] = float("nan")
        elif self.how == "out of range":
            tensor[rows] = torch.iinfo(tensor.dtype).max
        else:
            for row in rows.tolist():
                # reshape: a row of a vector is a scalar, and a scalar has no view as bytes
                raw = tensor[row].reshape(-1).contiguous().view(torch.uint8)
                order = torch.randperm(raw.numel(), generator=rng).to(raw.device)
                tensor[row] = raw[order].view(tensor.dtype).view(tensor[row].shape)
        return tensor
