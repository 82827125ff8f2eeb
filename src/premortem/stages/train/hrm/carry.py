"""What lives between two segments of deep supervision: states, step counts, and the puzzles being solved."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from premortem.core.errors import ConfigError

Batch = dict[str, Tensor]
"""``inputs`` and ``labels``, both (B, C) int64 tokens; optionally ``slots`` (B,), the carry row of each puzzle."""

IGNORED = -100
"""A label that counts neither for the loss nor for accuracy."""


def to_batch(inputs: NDArray[np.int64], labels: NDArray[np.int64], device: torch.device | str = "cpu") -> Batch:
    """Two (B, C) arrays of tokens as a batch on ``device``."""
    return {
        "inputs": torch.from_numpy(inputs).to(device),
        "labels": torch.from_numpy(labels).to(device),
    }


@dataclass(frozen=True, eq=False)
class Carry:
    """One row per slot of the batch, every tensor detached. Saving all of it resumes training bit for bit."""

    z_high: Tensor
    """(B, S, D) state of the slow module."""
    z_low: Tensor
    """(B, S, D) state of the fast module."""
    steps: Tensor
    """(B,) int64: segments run on the present puzzle."""
    min_steps: Tensor
    """(B,) int64: segments that exploration demands before the present puzzle may halt; 0 demands none."""
    halted: Tensor
    """(B,) bool: the slot is done and takes a new puzzle at the next segment."""
    inputs: Tensor
    """(B, C) int64: the present puzzles."""
    labels: Tensor
    """(B, C) int64: their solutions."""

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of every tensor by field name."""
        return {item.name: getattr(self, item.name).clone() for item in fields(self)}

    @classmethod
    def from_state_dict(cls, state: dict[str, Tensor]) -> Carry:
        """The carry that :meth:`state_dict` described; raises :class:`ConfigError` for other names."""
        names = {item.name for item in fields(cls)}
        if state.keys() != names:
            raise ConfigError(
                f"carry state with {sorted(state)}: expected {sorted(names)};"
                " load what Carry.state_dict() saved, of the same version"
            )
        return cls(**{name: tensor.clone() for name, tensor in state.items()})

    def take(self, rows: Tensor) -> Carry:
        """The carry of the slots ``rows`` (int64 indices), in that order."""
        return Carry(**{item.name: getattr(self, item.name)[rows] for item in fields(self)})

    def put(self, rows: Tensor, part: Carry) -> Carry:
        """This carry with the slots ``rows`` replaced by those of ``part``."""
        return Carry(
            **{
                item.name: getattr(self, item.name).index_copy(0, rows, getattr(part, item.name))
                for item in fields(self)
            }
        )

    def to(self, device: torch.device | str) -> Carry:
        """The carry on ``device``."""
        return Carry(**{item.name: getattr(self, item.name).to(device) for item in fields(self)})
