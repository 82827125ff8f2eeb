"""Buffers as they were before a step: a forward pass on a poisoned batch changes them before anyone can look."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn


class Buffers:
    """A copy of the buffers that a checkpoint holds, such as the running statistics of a batch norm.

    Copied after every applied step: a batch norm on the CPU does not move the version counters of what it changes.
    Buffers that no checkpoint holds are tables that a module can compute again; they are not copied.
    """

    def __init__(self, model: nn.Module) -> None:
        self._places = [
            (module, name)
            for module in model.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None and name not in module._non_persistent_buffers_set
        ]
        self._copies: list[Tensor] = []
        self.remember()

    @torch.no_grad()
    def remember(self) -> None:
        """Take the present values as those to go back to."""
        now = list(self._present())
        if not self._fits(now):
            self._copies = [buffer.clone() for buffer in now]
            return
        for copy, buffer in zip(self._copies, now, strict=True):
            copy.copy_(buffer)

    @torch.no_grad()
    def put_back(self) -> None:
        """Undo what happened since :meth:`remember`; where a module exchanged its buffers, there is no way back."""
        now = list(self._present())
        if self._fits(now):
            for copy, buffer in zip(self._copies, now, strict=True):
                buffer.copy_(copy)

    def _fits(self, now: list[Tensor]) -> bool:
        return [(b.shape, b.dtype) for b in now] == [(c.shape, c.dtype) for c in self._copies]

    def _present(self) -> Iterator[Tensor]:
        for module, name in self._places:
            buffer = module._buffers[name]
            if buffer is not None:
                yield buffer.detach()
