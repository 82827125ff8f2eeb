"""The norm of the gradients: computed once, used for the finite check, for clipping and as a signal."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def gradients(parameters: Iterable[torch.nn.Parameter]) -> list[Tensor]:
    """The gradients that are there; of a sparse one its values, coalesced in place so that clipping reaches them."""
    found = []
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is None:
            continue
        if gradient.is_sparse:
            if not gradient.is_coalesced():
                gradient = parameter.grad = gradient.coalesce()
            gradient = gradient.values()
        found.append(gradient)
    return found


def local(tensor: Tensor) -> Tensor:
    """What of a tensor lies in this process: of one that is spread over several (a DTensor) the own shard."""
    to_local = getattr(tensor, "to_local", None)
    return tensor if to_local is None else to_local()


def awaited(scalars: list[Tensor]) -> list[float]:
    """The values of scalar tensors, in one transfer where they lie on one device in one type."""
    first = scalars[0]
    if all(s.dtype == first.dtype and s.device == first.device for s in scalars):
        values: list[float] = torch.stack([s.reshape(()) for s in scalars]).tolist()
        return values
    return [float(s) for s in scalars]


def total_norm(grads: list[Tensor]) -> Tensor:
    """The 2-norm over all gradients, as torch's own clipping computes it; NaN and Inf pass through.

    A scalar tensor on the gradients' device; 0 where there is none. Of gradients that are spread over several
    processes it is the norm over all of them, and every process must ask.
    """
    if not grads:
        return torch.zeros(())
    norm = torch.nn.utils.get_total_norm(grads)
    full = getattr(norm, "full_tensor", None)
    return norm if full is None else full()


def clip(grads: list[Tensor], norm: Tensor, limit: float) -> None:
    """Scale the gradients so that their norm is at most ``limit``; bit-identical to ``clip_grad_norm_``."""
    coefficient = torch.clamp(limit / (norm + 1e-6), max=1.0)
    by_device: dict[torch.device, list[Tensor]] = {}
    for gradient in map(local, grads):
        by_device.setdefault(gradient.device, []).append(gradient)
    for device, there in by_device.items():
        torch._foreach_mul_(there, coefficient.to(device))


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether every floating-point tensor is finite, as far as it lies here; for after something went wrong only."""
    mine = map(local, tensors)
    return all(bool(torch.isfinite(t).all()) for t in mine if t.is_floating_point() or t.is_complex())
