"""Decoder-only transformer: RMSNorm, rotary positions, SwiGLU or GELU, causal attention, tied embeddings.

Shapes: B batch, T time in tokens, C width, H heads, D head width, V vocabulary.
Sources: RMSNorm arXiv 1910.07467, rotary embedding 2104.09864, SwiGLU 2002.05202.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from premortem.core.errors import ConfigError
from premortem.stages.train.lm.config import LanguageModelConfig


class LanguageModel(nn.Module):
    """Maps token ids ``[B, T]`` to logits ``[B, T, V]``.

    ``recompute_activations`` may be switched at any time: the activations of each block are then dropped and
    computed again in the backward pass, with the same result for less memory.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.config = config
        self.recompute_activations = False
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(config.width, eps=1e-6)
        cos_TD, sin_TD = _rotary_tables(config)
        self.register_buffer("cos", cos_TD, persistent=False)
        self.register_buffer("sin", sin_TD, persistent=False)
        self._initialise()

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Logits of the next token at each position; raises ``ConfigError`` when T exceeds the context."""
        length = ids_BT.shape[1]
        if length > self.config.context:
            raise ConfigError(
                f"sequence of {length} tokens in LanguageModel.forward: expected at most "
                f"{self.config.context}; cut the windows or raise LanguageModelConfig.context"
            )
        cos_TD, sin_TD = self.cos[:length], self.sin[:length]
        x_BTC = self.embedding(ids_BT)
        for block in self.blocks:
            if self.recompute_activations and torch.is_grad_enabled():
                x_BTC = checkpoint(block, x_BTC, cos_TD, sin_TD, use_reentrant=False)
            else:
                x_BTC = block(x_BTC, cos_TD, sin_TD)
        return functional.linear(self.norm(x_BTC), self.embedding.weight)

    def _initialise(self) -> None:
        # At 0.02 (GPT-2) the first blocks drown the token in the residual stream: 2 x the steps at drill size.
        nn.init.normal_(self.embedding.weight, std=self.config.width**-0.5)
        for name, weight in self.blocks.named_parameters():
            if weight.ndim == 2:
                # Projections into the residual stream add up over depth, so each gets its share (GPT-2).
                adds_to_stream = name.endswith(("attention.out.weight", "feed_forward.down.weight"))
                shrink = math.sqrt(2 * self.config.num_layers) if adds_to_stream else 1.0
                nn.init.normal_(weight, std=1.0 / math.sqrt(weight.shape[1]) / shrink)


class Block(nn.Module):
    """Pre-norm attention and feed-forward, each added to the residual stream."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.width, eps=1e-6)
        self.attention = Attention(config)
        self.feed_forward_norm = nn.RMSNorm(config.width, eps=1e-6)
        self.feed_forward = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTC: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
        """One layer; shapes in and out are equal."""
        x_BTC = x_BTC + self.dropout(self.attention(self.attention_norm(x_BTC), cos_TD, sin_TD))
        branch_BTC: Tensor = self.dropout(self.feed_forward(self.feed_forward_norm(x_BTC)))
        return x_BTC + branch_BTC


class Attention(nn.Module):
    """Causal multi-head attention through ``scaled_dot_product_attention``, without biases."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.dropout = config.dropout
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x_BTC: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
        """Attend to the past and present only."""
        batch, length, width = x_BTC.shape
        heads = (batch, length, self.num_heads, width // self.num_heads)
        q_BHTD, k_BHTD, v_BHTD = (part.view(heads).transpose(1, 2) for part in self.qkv(x_BTC).chunk(3, dim=-1))
        y_BHTD = functional.scaled_dot_product_attention(
            _rotate(q_BHTD, cos_TD, sin_TD),
            _rotate(k_BHTD, cos_TD, sin_TD),
            v_BHTD,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=True,
        )
        y_BTC: Tensor = self.out(y_BHTD.transpose(1, 2).reshape(batch, length, width))
        return y_BTC


class FeedForward(nn.Module):
    """SwiGLU (gate and value) or plain GELU, without biases."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.is_gated = config.activation == "swiglu"
        self.up = nn.Linear(config.width, config.ffn_width * (2 if self.is_gated else 1), bias=False)
        self.down = nn.Linear(config.ffn_width, config.width, bias=False)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Position-wise; shapes in and out are equal."""
        if self.is_gated:
            gate, value = self.up(x_BTC).chunk(2, dim=-1)
            inner = functional.silu(gate) * value
        else:
            inner = functional.gelu(self.up(x_BTC))
        y_BTC: Tensor = self.down(inner)
        return y_BTC


def loss(model: nn.Module, windows_BT: Tensor) -> Tensor:
    """Mean cross-entropy in nats per predicted token (scalar).

    ``windows_BT`` holds ``context + 1`` token ids a row: the first T are read, the last T predicted. A row
    predicts T tokens, so a batch split in parts is the mean of the parts weighted by their rows.
    """
    logits_BTV = model(windows_BT[:, :-1])
    return functional.cross_entropy(logits_BTV.flatten(0, 1), windows_BT[:, 1:].flatten())


def _rotary_tables(config: LanguageModelConfig) -> tuple[Tensor, Tensor]:
    head_width = config.width // config.num_heads
    frequency = config.rope_base ** (-torch.arange(0, head_width, 2, dtype=torch.float64) / head_width)
    angle = torch.outer(torch.arange(config.context, dtype=torch.float64), frequency).repeat(1, 2)
    return angle.cos().float(), angle.sin().float()


def _rotate(x_BHTD: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
    first, second = x_BHTD.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return x_BHTD * cos_TD.to(x_BHTD.dtype) + turned * sin_TD.to(x_BHTD.dtype)
