"""What HRM is measured against: the same blocks in one plain pass, and a lookup of the nearest puzzle."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from premortem.stages.train.hrm.carry import Batch
from premortem.stages.train.hrm.config import HRMConfig
from premortem.stages.train.hrm.layers import Block, Embedding, Linear, Rotary
from premortem.stages.train.hrm.loss import correctness, token_losses


@dataclass(frozen=True)
class Score:
    """Shares in 0..1 over all puzzles: every cell right, and right cells (clues included)."""

    exact: float
    cells: float


class PlainTransformer(nn.Module):
    """All blocks of an HRM of the same config stacked once: same weights but for the Q head, no recurrence."""

    def __init__(self, config: HRMConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config)
        self.rotary: Rotary | None = None
        if config.positions == "rotary":
            channels = config.hidden_size // config.num_heads
            self.rotary = Rotary(channels, config.seq_len + 1, config.rope_base)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.high_layers + config.low_layers))
        self.token_head = Linear(config.hidden_size, config.vocab_size)

    def forward(self, inputs_BC: Tensor) -> Tensor:
        """Token numbers (B, C) to logits (B, C, V)."""
        x_BSD = self.embedding(inputs_BC)
        for block in self.blocks:
            x_BSD = block(x_BSD, self.rotary)
        logits: Tensor = self.token_head(x_BSD)[:, 1:]
        return logits

    def loss(self, batch: Batch) -> Tensor:
        """Mean token cross-entropy, the same as HRM's."""
        return token_losses(self(batch["inputs"]), batch["labels"], self.config.loss).mean()

    @torch.no_grad()
    def score(self, puzzles: Batch) -> Score:
        """How many puzzles one pass solves."""
        cells, solved = correctness(self(puzzles["inputs"]), puzzles["labels"])
        return Score(solved.float().mean().item(), cells.mean().item())


def nearest_solutions(train: Batch, inputs_BC: Tensor) -> Tensor:
    """For each puzzle the solution of the training puzzle that agrees with it in the most cells, blanks included.

    On a split by solution grid its exact accuracy is 0 by construction; its cell accuracy is not.
    """
    rows = [(train["inputs"] == puzzle).sum(1).argmax() for puzzle in inputs_BC]
    return train["labels"][torch.stack(rows)]


def lookup_score(train: Batch, puzzles: Batch) -> Score:
    """What :func:`nearest_solutions` gets right."""
    right = nearest_solutions(train, puzzles["inputs"]) == puzzles["labels"]
    return Score(right.all(1).float().mean().item(), right.float().mean().item())
