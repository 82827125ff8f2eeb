"""How many puzzles a model solves outright, and when it would have stopped."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from premortem.core.errors import ConfigError
from premortem.stages.train.hrm.carry import Batch
from premortem.stages.train.hrm.loss import correctness
from premortem.stages.train.hrm.model import HRM


@dataclass(frozen=True)
class Evaluation:
    """Shares are in 0..1 over all puzzles."""

    num_puzzles: int
    exact_accuracy: float
    """Every cell right after ``max_segments`` segments, as the paper evaluates."""
    cell_accuracy: float
    """Right cells after ``max_segments`` segments, clues included."""
    exact_at_halt: float
    """Every cell right at the segment where the model halts by itself."""
    mean_halt_segment: float
    """Segments until it halts by itself, ``max_segments`` where it does not."""
    halted_at_first: float
    """Share that halts at the first segment."""
    never_halted: float
    """Share that does not halt by itself."""


@torch.no_grad()
def evaluate(model: HRM, puzzles: Batch, batch_size: int = 512) -> Evaluation:
    """Solve ``puzzles`` without exploration; the model's mode is put back afterwards.

    Raises :class:`ConfigError` for an empty batch: no puzzle is no evidence.
    """
    total = len(puzzles["inputs"])
    if not total:
        raise ConfigError("evaluation over 0 puzzles: expected at least 1; nothing can be said about none")
    was_training = model.training
    model.eval()
    try:
        parts = [
            _solve(model, puzzles["inputs"][i : i + batch_size], puzzles["labels"][i : i + batch_size])
            for i in range(0, total, batch_size)
        ]
    finally:
        model.train(was_training)
    columns = torch.cat(parts).double().mean(0).tolist()
    return Evaluation(total, *columns)


def _solve(model: HRM, inputs: Tensor, labels: Tensor) -> Tensor:
    """One row per puzzle with the columns of :class:`Evaluation`, in its order."""
    limit = model.halting.max_segments
    carry = model.admit(model.initial_carry({"inputs": inputs, "labels": labels}), {"inputs": inputs, "labels": labels})
    z_high, z_low = carry.z_high, carry.z_low
    halt_step = torch.full((len(inputs),), limit, device=inputs.device)
    running = torch.ones(len(inputs), dtype=torch.bool, device=inputs.device)
    at_halt = torch.zeros_like(running)
    for step in range(1, limit + 1):
        segment = model.segment(z_high, z_low, inputs)
        z_high, z_low = segment.z_high, segment.z_low
        cells, solved = correctness(segment.logits, labels)
        stops = running & model.wants_halt(segment)
        halt_step = torch.where(stops, step, halt_step)
        at_halt = torch.where(stops, solved, at_halt)
        running = running & ~stops
    at_halt = torch.where(running, solved, at_halt)
    columns = (solved, cells, at_halt, halt_step, (halt_step == 1) & ~running, running)
    return torch.stack([column.float() for column in columns], dim=1)
