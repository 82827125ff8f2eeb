"""The loss of one segment: tokens, plus Q-learning of when to halt.

``mean over puzzles of [token cross-entropy + (bce(q_halt, solved) + bce(q_continue, target)) / 2]``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from premortem.stages.train.hrm.carry import IGNORED, Batch, Carry
from premortem.stages.train.hrm.config import HRMConfig
from premortem.stages.train.hrm.model import HRM, Segment

Metrics = dict[str, Tensor]
"""Detached scalars on the model's device; reading one with ``.item()`` waits for the device."""


def stablemax_log_probabilities(logits: Tensor) -> Tensor:
    """Log of stablemax over the last dimension: linear above zero, ``1 / (1 - x)`` below (Prieto et al. 2025).

    In float64, as the tail of a probability near one is what it is for; float32 on MPS, which has no float64.
    """
    wide = logits.to(torch.float32 if logits.device.type == "mps" else torch.float64)
    # The branch not taken must stay finite too, else its gradient is NaN at x = 1.
    scores = torch.where(wide < 0, 1.0 / (1.0 - wide.clamp(max=0.0)), wide + 1.0)
    return torch.log(scores / scores.sum(dim=-1, keepdim=True))


def token_losses(logits_BCV: Tensor, labels_BC: Tensor, kind: str) -> Tensor:
    """Cross-entropy of every puzzle, averaged over its counted cells: (B,)."""
    counted = labels_BC != IGNORED
    target = torch.where(counted, labels_BC, 0)
    if kind == "stablemax":
        logs = stablemax_log_probabilities(logits_BCV)
    else:
        logs = functional.log_softmax(logits_BCV.float(), dim=-1)
    picked = -logs.gather(-1, target.unsqueeze(-1)).squeeze(-1)
    losses = torch.where(counted, picked, 0.0).sum(-1) / counted.sum(-1).clamp_min(1)
    return losses.float()


@torch.no_grad()
def correctness(logits_BCV: Tensor, labels_BC: Tensor) -> tuple[Tensor, Tensor]:
    """Share of right cells (B,) and whether all counted cells are right (B,) bool."""
    counted = labels_BC != IGNORED
    right = (logits_BCV.argmax(-1) == labels_BC) & counted
    return right.sum(-1) / counted.sum(-1).clamp_min(1), right.sum(-1) == counted.sum(-1)


def act_loss(model: HRM, carry: Carry, batch: Batch) -> tuple[Carry, Tensor, Metrics]:
    """One segment of deep supervision: the new carry, the mean loss to call ``backward`` on, and metrics.

    The caller owns backward, clipping and the step, and keeps the new carry only if it keeps the step: a carry
    from a non-finite step is non-finite itself. Exploration draws from torch's global generator in train mode.
    """
    after, segment = model(carry, batch)
    token = token_losses(segment.logits, after.labels, model.config.loss).mean()
    cells, solved = correctness(segment.logits, after.labels)
    q_halt = functional.binary_cross_entropy_with_logits(segment.q_halt, solved.float())
    loss = token + 0.5 * q_halt
    metrics = _metrics(model.config, after, segment, cells, solved)
    metrics |= {"token_loss": token.detach(), "q_halt_loss": q_halt.detach()}
    if model.training and model.halting.max_segments > 1:
        target = model.continue_target(after)
        q_continue = functional.binary_cross_entropy_with_logits(segment.q_continue, target)
        loss = loss + 0.5 * q_continue
        metrics["q_continue_loss"] = q_continue.detach()
    metrics["loss"] = loss.detach()
    return after, loss, metrics


def _metrics(config: HRMConfig, after: Carry, segment: Segment, cells: Tensor, solved: Tensor) -> Metrics:
    """Accuracy over all slots; halting over the slots that halted in this segment (NaN when none did)."""
    halted = after.halted
    count = halted.sum()
    steps = torch.where(halted, after.steps, 0)
    return {
        "cell_accuracy": cells.mean(),
        "exact_accuracy": solved.float().mean(),
        "halted": halted.float().mean(),
        "halted_exact_accuracy": (halted & solved).sum() / count,
        "mean_halt_segment": steps.sum() / count,
        "halted_at_first": (halted & (after.steps == 1)).sum() / count,
        "halted_at_max": (halted & (after.steps >= config.halting.max_segments)).sum() / count,
        "q_halt_accuracy": ((segment.q_halt.detach() > 0) == solved).float().mean(),
    }
