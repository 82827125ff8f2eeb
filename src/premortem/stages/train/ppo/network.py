"""The net of actor and critic: one small convolution applied again and again, as value iteration would.

The same weights for every cell and every round, so it is small (some ten thousand numbers) and knows no size: a maze of
any side can be asked. Rounds bound how far ahead it sees.

Legend: B walkers, C cells of a square with side N, K channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from premortem.core.errors import ConfigError
from premortem.stages.train.maze import FREE, GOAL, PATH, START, VOCABULARY, steps_from

_CLOSED = -1e9
"""Logit of a move that is not allowed: its probability is 0 in float32."""


@dataclass(frozen=True)
class WalkNetConfig:
    """``channels`` K a cell; ``rounds`` how often the convolution is applied: it sees so many steps ahead."""

    channels: int = 16
    rounds: int = 16

    def __post_init__(self) -> None:
        for name in ("channels", "rounds"):
            if not 1 <= getattr(self, name) <= 1024:
                raise ConfigError(f"WalkNetConfig.{name} is {getattr(self, name)}: expected 1 to 1024")


class WalkNet(nn.Module):
    """Views (B, C) of tokens to logits (B, 4) of the moves and values (B,)."""

    def __init__(self, config: WalkNetConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = nn.Conv2d(4, config.channels, 3, padding=1)
        self.round = nn.Conv2d(config.channels, config.channels, 3, padding=1, bias=False)
        self.worth = nn.Conv2d(config.channels, 1, 1)
        self.value = nn.Linear(2 * config.channels, 1)

    def forward(self, views_BC: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of moves that are not allowed are -1e9: into walls, out of the square, on trodden cells."""
        views_BC = views_BC.long()
        count, cells = views_BC.shape
        size = round(cells**0.5)
        # A wall is a cell without any mark, and so is the padding: the outside is a wall.
        marks = functional.one_hot(views_BC, VOCABULARY)[..., FREE : PATH + 1].float()
        given = self.stem(marks.transpose(1, 2).reshape(count, 4, size, size))
        state = functional.relu(given)
        for _ in range(self.config.rounds):
            state = functional.relu(given + self.round(state))
        here = (views_BC == START).to(torch.int8).argmax(1)
        near_B4 = _near(size).to(here.device)[here]
        worth = functional.pad(self.worth(state).reshape(count, cells), (0, 1))
        seen = functional.pad(views_BC, (0, 1)).gather(1, near_B4)
        logits = worth.gather(1, near_B4).masked_fill((seen != FREE) & (seen != GOAL), _CLOSED)
        flat = state.reshape(count, -1, cells)
        at_walker = flat[torch.arange(count, device=here.device), :, here]
        value: Tensor = self.value(torch.cat((at_walker, flat.mean(2)), dim=1)).squeeze(1)
        return logits, value


@cache
def _near(size: int) -> Tensor:
    """(C, 4): the cells that the moves lead to; C, one past the last, for the outside."""
    outside = size * size
    return torch.tensor([[cell if cell >= 0 else outside for cell in row] for row in steps_from(size)])
