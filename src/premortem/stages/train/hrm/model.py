"""The Hierarchical Reasoning Model: a slow module H and a fast module L, run in segments until a puzzle halts.

A segment is N cycles; a cycle is T updates of L and then one of H. Only the last update of each keeps a gradient
(the one-step approximation of the implicit gradient), or all do; the state is detached between segments.

Legend: B puzzles, C cells, S = C + 1 tokens, D channels, V vocabulary. Source: arXiv 2506.21734.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from premortem.core.errors import ConfigError
from premortem.stages.train.hrm.carry import Batch, Carry
from premortem.stages.train.hrm.config import Halting, HRMConfig
from premortem.stages.train.hrm.layers import Block, Embedding, Linear, Rotary, truncated_normal

# The Q head starts at "almost surely unsolved", so that early halting has to be learned.
_Q_BIAS = -5.0


@dataclass(frozen=True, eq=False)
class Segment:
    """What one segment gives; logits carry the gradient, states are detached."""

    z_high: Tensor
    z_low: Tensor
    logits: Tensor
    """(B, C, V) token logits."""
    q_halt: Tensor
    """(B,) logit of "the answer is right now"."""
    q_continue: Tensor
    """(B,) logit of "it will be right if we go on"."""


class ReasoningModule(nn.Module):
    """A stack of blocks over state plus input: the recurrence of one module."""

    def __init__(self, config: HRMConfig, num_layers: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(config) for _ in range(num_layers))

    def forward(self, state_BSD: Tensor, injected_BSD: Tensor, rotary: Rotary | None) -> Tensor:
        """(B, S, D) and (B, S, D) to (B, S, D)."""
        x_BSD = state_BSD + injected_BSD
        for block in self.blocks:
            x_BSD = block(x_BSD, rotary)
        return x_BSD


class HRM(nn.Module):
    """The model. :attr:`halting` may be replaced while training runs: it is a setting, not a weight."""

    high_start: Tensor
    low_start: Tensor

    def __init__(self, config: HRMConfig) -> None:
        super().__init__()
        self.config = config
        self.halting: Halting = config.halting
        self.embedding = Embedding(config)
        self.rotary: Rotary | None = None
        if config.positions == "rotary":
            channels = config.hidden_size // config.num_heads
            self.rotary = Rotary(channels, config.seq_len + 1, config.rope_base)
        self.high = ReasoningModule(config, config.high_layers)
        self.low = ReasoningModule(config, config.low_layers)
        self.token_head = Linear(config.hidden_size, config.vocab_size)
        self.q_head = nn.Linear(config.hidden_size, 2)
        nn.init.zeros_(self.q_head.weight)
        nn.init.constant_(self.q_head.bias, _Q_BIAS)
        self.register_buffer("high_start", truncated_normal((config.hidden_size,), 1.0))
        self.register_buffer("low_start", truncated_normal((config.hidden_size,), 1.0))

    @property
    def num_parameters(self) -> int:
        """Trainable weights; the two start states are buffers and do not count."""
        return sum(parameter.numel() for parameter in self.parameters())

    def initial_carry(self, batch: Batch) -> Carry:
        """A carry in which every slot is halted, so that the first segment takes its puzzles from its batch."""
        inputs = batch["inputs"]
        count, device = len(inputs), inputs.device
        shape = (count, self.config.seq_len + 1, self.config.hidden_size)
        zeros = torch.zeros(count, dtype=torch.int64, device=device)
        return Carry(
            z_high=self.high_start.expand(shape).clone(),
            z_low=self.low_start.expand(shape).clone(),
            steps=zeros,
            min_steps=zeros.clone(),
            halted=torch.ones(count, dtype=torch.bool, device=device),
            inputs=torch.zeros_like(inputs),
            labels=torch.zeros_like(batch["labels"]),
        )

    def segment(self, z_high: Tensor, z_low: Tensor, inputs_BC: Tensor) -> Segment:
        """Run N cycles of T steps from the given states; gradients flow as ``config.gradient`` says."""
        x_BSD = self.embedding(inputs_BC)
        last = self.config.cycles * self.config.steps_per_cycle
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.gradient == "segment"):
            for step in range(1, last):
                z_low = self.low(z_low, z_high + x_BSD, self.rotary)
                if step % self.config.steps_per_cycle == 0:
                    z_high = self.high(z_high, z_low, self.rotary)
        z_low = self.low(z_low, z_high + x_BSD, self.rotary)
        z_high = self.high(z_high, z_low, self.rotary)
        q_B2 = self.q_head(z_high[:, 0]).float()
        return Segment(z_high.detach(), z_low.detach(), self.token_head(z_high)[:, 1:], q_B2[:, 0], q_B2[:, 1])

    def admit(self, carry: Carry, batch: Batch) -> Carry:
        """Give every halted slot its puzzle from ``batch``, fresh states and a new exploration draw.

        Raises :class:`ConfigError` when the batch has another shape than the carry.
        """
        if batch["inputs"].shape != carry.inputs.shape:
            raise ConfigError(
                f"batch of shape {tuple(batch['inputs'].shape)} for a carry of {tuple(carry.inputs.shape)}:"
                " expected the same; keep the batch size, or start again from initial_carry(batch)"
            )
        new, row = carry.halted, carry.halted[:, None]
        state = carry.halted[:, None, None]
        return Carry(
            z_high=torch.where(state, self.high_start, carry.z_high),
            z_low=torch.where(state, self.low_start, carry.z_low),
            steps=torch.where(new, 0, carry.steps),
            min_steps=torch.where(new, self._explore(carry.steps), carry.min_steps),
            halted=torch.zeros_like(new),
            inputs=torch.where(row, batch["inputs"], carry.inputs),
            labels=torch.where(row, batch["labels"], carry.labels),
        )

    def _explore(self, like: Tensor) -> Tensor:
        if not self.training or self.halting.max_segments < 2:
            return torch.zeros_like(like)
        demanded = torch.randint_like(like, 2, self.halting.max_segments + 1)
        explores = torch.rand(like.shape, device=like.device) < self.halting.exploration
        return torch.where(explores, demanded, 0)

    def wants_halt(self, segment: Segment) -> Tensor:
        """(B,) bool: the learned decision alone. A NaN logit never halts; ``max_segments`` still ends it."""
        return segment.q_halt.detach() - segment.q_continue.detach() > self.halting.threshold

    def forward(self, carry: Carry, batch: Batch) -> tuple[Carry, Segment]:
        """One segment for every slot: admit new puzzles, reason, decide who halts."""
        carry = self.admit(carry, batch)
        segment = self.segment(carry.z_high, carry.z_low, carry.inputs)
        steps = carry.steps + 1
        chosen = self.wants_halt(segment) & (steps >= carry.min_steps)
        halted = chosen | (steps >= self.halting.max_segments)
        after = Carry(segment.z_high, segment.z_low, steps, carry.min_steps, halted, carry.inputs, carry.labels)
        return after, segment

    @torch.no_grad()
    def continue_target(self, carry: Carry) -> Tensor:
        """(B,) in 0..1: what going on is worth, from the next segment's own Q values (paper, equation for Q-hat).

        At the last segment only halting is left, so the target is the next ``q_halt`` alone.
        """
        following = self.segment(carry.z_high, carry.z_low, carry.inputs)
        best = torch.maximum(following.q_halt, following.q_continue)
        last = carry.steps >= self.halting.max_segments
        return torch.sigmoid(torch.where(last, following.q_halt, best))
