"""The norm of the gradients: computed once, used for the finite check, for clipping and as a signal."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def gradients(parameters: Iterable[torch.nn.Parameter]) -> list[Tensor]:
    """The gradients that are there; a sparse one is replaced by its values."""
    found = []
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is not None:
            found.append(gradient.coalesce().values() if gradient.is_sparse else gradient)
    return found


def total_norm(grads: list[Tensor]) -> Tensor:
    """The 2-norm over all gradients, as torch's own clipping computes it; NaN and Inf pass through.

    A scalar tensor on the gradients' device; 0 where there is none.
    """
    if not grads:
        return torch.zeros(())
    return torch.nn.utils.get_total_norm(grads)


def clip(grads: list[Tensor], norm: Tensor, limit: float) -> None:
    """Scale the gradients so that their norm is at most ``limit``; bit-identical to ``clip_grad_norm_``."""
    coefficient = torch.clamp(limit / (norm + 1e-6), max=1.0)
    for gradient in grads:
        gradient.mul_(coefficient.to(gradient.device))


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether every floating-point tensor is finite; one scan, used after something went wrong only."""
    return all(bool(torch.isfinite(t).all()) for t in tensors if t.is_floating_point() or t.is_complex())
