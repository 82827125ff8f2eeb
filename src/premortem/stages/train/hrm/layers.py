"""The blocks of both recurrent modules: post-norm transformer, no bias, truncated LeCun initialisation.

Legend: B puzzles, S tokens, D channels, H heads, K channels a head, F inner width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from premortem.stages.train.hrm.config import HRMConfig

# Standard deviation of a unit normal cut at two deviations: dividing by it restores the wanted one.
_CUT_STD = 0.87962566103423978


def truncated_normal(shape: tuple[int, ...], std: float) -> Tensor:
    """A tensor of normal values cut at two deviations whose true standard deviation is ``std``."""
    raw = std / _CUT_STD
    return nn.init.trunc_normal_(torch.empty(shape), std=raw, a=-2 * raw, b=2 * raw)


class Linear(nn.Module):
    """``x @ W.T`` with truncated LeCun normal weights (std ``1 / sqrt(fan_in)``) and no bias."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(truncated_normal((fan_out, fan_in), fan_in**-0.5))

    def forward(self, x: Tensor) -> Tensor:
        """(..., fan_in) to (..., fan_out)."""
        return functional.linear(x, self.weight)


class Rotary(nn.Module):
    """Rotary position embedding of the two halves of each head (Su et al. 2021)."""

    cos: Tensor
    sin: Tensor

    def __init__(self, channels: int, length: int, base: float) -> None:
        super().__init__()
        frequency = base ** -(torch.arange(0, channels, 2, dtype=torch.float32) / channels)
        angle = torch.outer(torch.arange(length, dtype=torch.float32), frequency).repeat(1, 2)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, x_BHSK: Tensor) -> Tensor:
        """Turn every pair of channels by its position's angle; shape unchanged."""
        first, second = x_BHSK.chunk(2, dim=-1)
        turned = x_BHSK * self.cos + torch.cat((-second, first), dim=-1) * self.sin
        return turned.to(x_BHSK.dtype)


class Attention(nn.Module):
    """Bidirectional multi-head attention."""

    def __init__(self, config: HRMConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = Linear(config.hidden_size, 3 * config.hidden_size)
        self.out = Linear(config.hidden_size, config.hidden_size)

    def forward(self, x_BSD: Tensor, rotary: Rotary | None) -> Tensor:
        """(B, S, D) to (B, S, D); ``rotary`` turns queries and keys where positions are rotary."""
        batch, length, channels = x_BSD.shape
        heads = self.qkv(x_BSD).view(batch, length, 3, self.num_heads, channels // self.num_heads)
        q_BHSK, k_BHSK, v_BHSK = heads.permute(2, 0, 3, 1, 4).unbind(0)
        if rotary is not None:
            q_BHSK, k_BHSK = rotary(q_BHSK), rotary(k_BHSK)
        mixed_BHSK = functional.scaled_dot_product_attention(q_BHSK, k_BHSK, v_BHSK)
        out: Tensor = self.out(mixed_BHSK.transpose(1, 2).reshape(batch, length, channels))
        return out


class SwiGLU(nn.Module):
    """Gated feed-forward layer (Shazeer 2020)."""

    def __init__(self, config: HRMConfig) -> None:
        super().__init__()
        self.gate_up = Linear(config.hidden_size, 2 * config.mlp_width)
        self.down = Linear(config.mlp_width, config.hidden_size)

    def forward(self, x_BSD: Tensor) -> Tensor:
        """(B, S, D) to (B, S, D)."""
        gate, up = self.gate_up(x_BSD).chunk(2, dim=-1)
        out: Tensor = self.down(functional.silu(gate) * up)
        return out


class Block(nn.Module):
    """Attention, then SwiGLU, each followed by an RMS norm without weights (post-norm)."""

    def __init__(self, config: HRMConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.mlp = SwiGLU(config)
        self.eps = config.rms_eps

    def forward(self, x_BSD: Tensor, rotary: Rotary | None) -> Tensor:
        """(B, S, D) to (B, S, D)."""
        width = (x_BSD.shape[-1],)
        x_BSD = functional.rms_norm(x_BSD + self.attention(x_BSD, rotary), width, eps=self.eps)
        return functional.rms_norm(x_BSD + self.mlp(x_BSD), width, eps=self.eps)


class Embedding(nn.Module):
    """Tokens to channels, with one learned prefix token in front: the Q head reads there.

    Scaled by ``sqrt(D)`` so that entries have unit variance, like the recurrent states that they are added to.
    """

    def __init__(self, config: HRMConfig) -> None:
        super().__init__()
        std = config.hidden_size**-0.5
        self.scale = config.hidden_size**0.5
        self.tokens = nn.Parameter(truncated_normal((config.vocab_size, config.hidden_size), std))
        self.prefix = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.positions: nn.Parameter | None = None
        if config.positions == "learned":
            shape = (config.seq_len + 1, config.hidden_size)
            self.positions = nn.Parameter(truncated_normal(shape, std))

    def forward(self, inputs_BC: Tensor) -> Tensor:
        """Token numbers (B, C) to (B, C + 1, D)."""
        x_BCD = functional.embedding(inputs_BC, self.tokens)
        x_BSD = torch.cat((self.prefix.expand(len(x_BCD), -1, -1), x_BCD), dim=1)
        if self.positions is not None:
            x_BSD = (x_BSD + self.positions) * 0.5**0.5
        scaled: Tensor = x_BSD * self.scale
        return scaled
