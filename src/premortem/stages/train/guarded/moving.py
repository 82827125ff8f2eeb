"""Moves a run to another device and back: weights, buffers, the optimiser's state, companions that can move.

Parameters keep their identity. The optimiser's state follows its parameters by torch's own rules (a step counter
that belongs on the host stays there). Not covered: sharded models; batches, which the loss function places where
the model is; tensors that the user's code keeps elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn


def device_of(model: nn.Module) -> torch.device:
    """Where the first parameter lies; the CPU for a model without any."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


@torch.no_grad()
def move(
    model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device, companions: Iterable[object] = ()
) -> None:
    """Move in place, gradients dropped; a companion moves by its own ``to(device)``, or by reloading its state.

    Raises:
        RuntimeError: of torch, where the device does not answer or has no room.
    """
    for parameter in model.parameters():
        parameter.grad = None
    model.to(device)
    optimizer.load_state_dict(optimizer.state_dict())
    for companion in companions:
        to = getattr(companion, "to", None)
        if callable(to):
            to(device)
