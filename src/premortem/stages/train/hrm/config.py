"""Sizes of the Hierarchical Reasoning Model, from minutes on two cores to the paper's 27 M parameters.

Source: Wang et al. 2025, "Hierarchical Reasoning Model", arXiv 2506.21734.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from premortem.core.errors import ConfigError


@dataclass(frozen=True)
class Halting:
    """When a puzzle stops: adaptive computation time by Q-learning (paper, section 2)."""

    max_segments: int = 16
    """M_max: every puzzle halts after this many segments."""
    threshold: float = 0.0
    """Halt when ``q_halt - q_continue`` (logits) exceeds this: 0 is the paper's rule. ``inf`` never halts before
    ``max_segments``; ``-inf`` halts as soon as exploration lets it, at the first segment where that is 0."""
    exploration: float = 0.1
    """Probability that a training puzzle must run a random minimum of 2..max_segments segments."""

    def __post_init__(self) -> None:
        if self.max_segments < 1:
            raise ConfigError(f"Halting.max_segments is {self.max_segments}: expected at least 1")
        if math.isnan(self.threshold):
            raise ConfigError("Halting.threshold is NaN: expected a number or an infinity; 0 is the paper's rule")
        if not 0.0 <= self.exploration <= 1.0:
            raise ConfigError(f"Halting.exploration is {self.exploration}: expected a probability in [0, 1]")


@dataclass(frozen=True)
class HRMConfig:
    """The architecture. ``seq_len`` and ``vocab_size`` belong to the task, all else to the model."""

    seq_len: int
    """Cells of one puzzle."""
    vocab_size: int
    """Tokens: blank and digits, so size + 1 for a Sudoku."""
    hidden_size: int = 512
    num_heads: int = 8
    expansion: float = 4.0
    """SwiGLU width is ``2/3 * expansion * hidden_size``, rounded up to a multiple of ``width_multiple``."""
    width_multiple: int = 256
    high_layers: int = 4
    """Blocks of the slow module H."""
    low_layers: int = 4
    """Blocks of the fast module L."""
    cycles: int = 2
    """N: updates of H in a segment."""
    steps_per_cycle: int = 2
    """T: updates of L in a cycle."""
    gradient: Literal["last", "segment"] = "last"
    """Through which updates of a segment the gradient flows: ``last``, the paper's one-step approximation, through the
    last of L and of H; ``segment`` through all of them, which costs half as much again and teaches more a step
    (Jolicoeur-Martineau 2025, arXiv 2510.04871). A model answers alike under both."""
    positions: Literal["rotary", "learned"] = "rotary"
    """``rotary`` as in the paper; ``learned`` adds an absolute embedding instead, as the authors' code also offers."""
    loss: Literal["stablemax", "softmax"] = "stablemax"
    """Cross-entropy over tokens; stablemax is the paper's for small training sets."""
    rms_eps: float = 1e-5
    rope_base: float = 10_000.0
    halting: Halting = field(default_factory=Halting)

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads or (self.hidden_size // self.num_heads) % 2:
            raise ConfigError(
                f"HRMConfig.hidden_size {self.hidden_size} over {self.num_heads} heads: expected an even, whole"
                " number of channels a head (rotary turns pairs); change one of the two"
            )
        counts = {"cycles": self.cycles, "steps_per_cycle": self.steps_per_cycle}
        counts |= {"high_layers": self.high_layers, "low_layers": self.low_layers}
        for name, count in counts.items():
            if count < 1:
                raise ConfigError(f"HRMConfig.{name} is {count}: expected at least 1")

    @property
    def mlp_width(self) -> int:
        """Inner width of the SwiGLU."""
        width = round(self.expansion * self.hidden_size * 2 / 3)
        return -(-width // self.width_multiple) * self.width_multiple


def small_config(cells: int, tokens: int, hidden: int, *, max_segments: int) -> HRMConfig:
    """Sizes that two cores train in minutes: 2 + 2 narrow blocks, learned positions."""
    return HRMConfig(
        seq_len=cells, vocab_size=tokens, hidden_size=hidden, num_heads=4, expansion=2.0, width_multiple=32,
        high_layers=2, low_layers=2, positions="learned", loss="softmax", halting=Halting(max_segments=max_segments),
    )  # fmt: skip


def sudoku_config(size: int) -> HRMConfig:
    """A small model for Sudoku of ``size`` 4 (0.30 M parameters), 6 (0.56 M) or 9 (3.2 M)."""
    if size not in _SMALL:
        raise ConfigError(f"Sudoku size {size}: expected one of {sorted(_SMALL)}; choose one of them")
    return _SMALL[size]


_SMALL = {
    4: small_config(16, 5, 96, max_segments=8),
    6: small_config(36, 7, 128, max_segments=8),
    9: HRMConfig(
        seq_len=81, vocab_size=10, hidden_size=256, num_heads=4, width_multiple=64, high_layers=2, low_layers=2
    ),
}

PAPER_SUDOKU = HRMConfig(seq_len=81, vocab_size=10)
"""The paper's 27 M parameter model on 9x9 Sudoku: hidden 512, 4 + 4 blocks, N = T = 2, at most 16 segments."""
