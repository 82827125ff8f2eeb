"""How each size is trained: optimiser, learning-rate schedule, batch, number of steps.

AdamW, not the authors' Adam-atan2: torch ships it, in a fused form that can skip a non-finite step exactly. What
the paper wants of its optimiser, weights bounded by decoupled decay, AdamW gives as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from premortem.core.errors import ConfigError


@dataclass(frozen=True)
class Recipe:
    """A step is one segment of one batch."""

    steps: int
    batch_size: int = 64
    learning_rate: float = 2e-3
    """Peak, after warm-up."""
    final_share: float = 0.1
    """Share of the peak that cosine decay ends at."""
    warmup_steps: int = 100
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    max_gradient_norm: float = 1.0
    ema_decay: float = 0.99
    """Of the averaged weights that are evaluated; their memory is ``1 / (1 - decay)`` steps."""

    def build_optimizer(self, model: nn.Module) -> torch.optim.AdamW:
        """AdamW over all parameters, at the peak learning rate."""
        return torch.optim.AdamW(
            model.parameters(), lr=self.learning_rate, betas=self.betas, weight_decay=self.weight_decay
        )

    def rate_factor(self, step: int, progress: float) -> float:
        """Share of the peak rate at ``step`` (from 0), when ``progress`` in 0..1 of the training is done."""
        warm = min(1.0, (step + 1) / self.warmup_steps)
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
        return warm * (self.final_share + (1.0 - self.final_share) * cosine)


_RECIPES = {
    4: Recipe(steps=1200, weight_decay=1.0),
    6: Recipe(steps=1200, weight_decay=1.0),
    9: Recipe(steps=20_000, batch_size=384, learning_rate=3e-4, warmup_steps=1000, weight_decay=1.0, ema_decay=0.999),
}


def sudoku_recipe(size: int) -> Recipe:
    """The recipe for Sudoku of ``size`` 4, 6 or 9.

    4 is tuned on two cores; 6 borrows from it and 9 is a first guess for an accelerator, neither measured yet.
    """
    if size not in _RECIPES:
        raise ConfigError(f"Sudoku size {size}: expected one of {sorted(_RECIPES)}; choose one of them")
    return _RECIPES[size]
