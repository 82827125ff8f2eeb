"""Activation checkpointing for any model: the forwards of its blocks are wrapped, and unwrapped again.

A block's activations are dropped after its forward pass and computed again in the backward pass, under the random
numbers of the first time: on the CPU the gradients are bit-identical. A batch norm inside does not count twice.
Not covered: blocks that change something of their own in the forward pass (caches), compiled models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from premortem.core.action import Setting
from premortem.stages.train.guarded.settings import NumberSetting


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """What is worth computing again: the members of the outermost lists of blocks, else the model's own children.

    Only what has parameters, and is no single layer where larger blocks are to be had.
    """
    found = list(_in_lists(model))
    if len(found) < 2:
        found = [child for child in model.children() if _has_parameters(child)]
        while len(found) == 1 and any(True for _ in found[0].children()):
            found = [child for child in found[0].children() if _has_parameters(child)]
    return found if len(found) > 1 else []


def _in_lists(module: nn.Module) -> Iterator[nn.Module]:
    if isinstance(module, nn.ModuleList | nn.Sequential):
        members = [m for m in module if _has_parameters(m)]
        if len(members) > 1:
            yield from members
            return
    for child in module.children():
        yield from _in_lists(child)


def _has_parameters(module: nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters())


class Recompute(NumberSetting):
    """0: activations are kept; 1: those of the blocks are computed again. Holds for both forms of a step."""

    def __init__(self, model: nn.Module, on_change: Callable[[], None] = lambda: None) -> None:
        super().__init__(0.0)
        self.blocks = blocks_of(model)
        self.num_recomputed = 0
        """Blocks computed again so far: what shows that it acts."""
        self._on_change = on_change
        self._undo: list[Callable[[], None]] = []

    @property
    def is_possible(self) -> bool:
        """Whether there are blocks, and nobody compiled the model."""
        return bool(self.blocks) and not any(
            type(m).__name__ == "OptimizedModule" or hasattr(m, "_orig_mod") for m in self.blocks
        )

    def read(self) -> Setting:
        """1 while every block's forward is the wrapped one."""
        wrapped = [getattr(block.__dict__.get("forward"), "_recomputes", False) for block in self.blocks]
        return 1.0 if wrapped and all(wrapped) else 0.0

    def give_up(self) -> None:
        """A block that cannot be computed again: unwrap, whatever was asked; the next read-back shows it."""
        self._unwrap()

    def _set(self, value: Setting) -> None:
        super()._set(value)
        if self.value and not self._undo:
            for block in self.blocks:
                self._wrap(block)
            self._on_change()
        elif not self.value and self._undo:
            self._unwrap()
            self._on_change()

    def _wrap(self, block: nn.Module) -> None:
        own = block.__dict__.get("forward")  # somebody may have wrapped it before
        original = block.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            if not torch.is_grad_enabled() or not block.training:
                return original(*args, **kwargs)
            return checkpoint(
                original, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), self._again(block)), **kwargs
            )

        forward._recomputes = True  # type: ignore[attr-defined]
        block.forward = forward

        def undo() -> None:
            if own is None:
                del block.forward
            else:
                block.forward = own

        self._undo.append(undo)

    def _unwrap(self) -> None:
        while self._undo:
            self._undo.pop()()

    def _again(self, block: nn.Module) -> AbstractContextManager[None]:
        self_ = self

        @contextmanager
        def again() -> Iterator[None]:
            self_.num_recomputed += 1
            norms = [m for m in block.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
            before = [(m.momentum, m.num_batches_tracked) for m in norms]
            for norm in norms:
                norm.momentum = 0.0
                if norm.num_batches_tracked is not None:
                    norm.num_batches_tracked = norm.num_batches_tracked.clone()
            try:
                yield
            finally:
                for norm, (momentum, count) in zip(norms, before, strict=True):
                    norm.momentum, norm.num_batches_tracked = momentum, count

        return again()
