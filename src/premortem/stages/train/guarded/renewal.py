"""New memory for a model whose device lost the old one: what lay there cannot be read, so nothing is copied.

The tensors keep their identity, so that the optimiser and whoever else holds a parameter go on with it; what they
hold is for a checkpoint to fill. Tables that no checkpoint holds (buffers registered with ``persistent=False``)
are remembered at the start, in the main memory.
Covered: parameters, tied ones too, and buffers. Not covered: sharded tensors, tensors that the user's code keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from premortem.stages.train.guarded.failures import classify


class Renewal:
    """Gives a model new memory, and says whether its present memory answers."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._tables = {
            (module, name): buffer.detach().to("cpu", copy=True)
            for module, name, buffer in _buffers(model)
            if name in module._non_persistent_buffers_set
        }

    def answers(self) -> bool:
        """Whether an operation on each parameter and buffer works, and its result arrives.

        Raises:
            whatever an operation raises that is no failure of the device.
        """
        return _works(self._touch)

    @torch.no_grad()
    def _touch(self) -> None:
        for tensor in (*self._model.parameters(), *(buffer for _, _, buffer in _buffers(self._model))):
            float(tensor.reshape(-1)[:1].float().sum())

    def device_answers(self) -> bool:
        """Whether the device works for new memory."""
        device = next((p.device for p in self._model.parameters()), torch.device("cpu"))
        return _works(lambda: float(torch.ones(1, device=device).sum()))

    def renew(self, device: torch.device | None = None) -> None:
        """Take new memory on ``device``, or where each tensor lay; gradients go, weights are uninitialised."""
        for parameter in self._model.parameters():
            parameter.grad = None
            parameter.data = _like(parameter, device)
        for module, name, buffer in list(_buffers(self._model)):
            table = self._tables.get((module, name))
            where = device or buffer.device
            module._buffers[name] = _like(buffer, device) if table is None else table.to(where, copy=True)


def _works(operation: Callable[[], object]) -> bool:
    try:
        operation()
    except Exception as error:
        failure = classify(error)
        if failure is None or failure.kind != "device lost":
            raise
        return False
    return True


def _like(tensor: Tensor, device: torch.device | None) -> Tensor:
    """Uninitialised, made from what is known of the tensor without its memory."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=device or tensor.device)


def _buffers(model: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                yield module, name, buffer
