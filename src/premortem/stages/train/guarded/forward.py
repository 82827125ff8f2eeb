"""How the second form computes a loss: in the user's own precision, or in a mixed one while a rung asks for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from premortem.core.action import Setting
from premortem.stages.train.guarded.settings import NumberSetting

LossFn = Callable[[nn.Module, Any], Tensor]
FULL, MIXED = 32.0, 16.0


class Precision(NumberSetting):
    """Bits that a forward pass computes with: 32 leaves it to the user, 16 is autocast to bfloat16 around it."""

    def __init__(self) -> None:
        super().__init__(FULL)
        self.on_change: Callable[[], None] = lambda: None
        self.used: float | None = None
        """Under which the last forward pass ran; ``None`` for one that was not ours to run (the first form)."""

    def read(self) -> Setting:
        """What the last forward pass was, where it was not ours; else what the next one will be."""
        return self.value if self.used is not None else FULL

    def _set(self, value: Setting) -> None:
        before = self.value
        super()._set(value)
        if self.value != before:
            self.on_change()


class Forward:
    """Calls ``loss_fn(model, piece)`` under the precision in force."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.precision = Precision()

    def __call__(self, loss_fn: LossFn, piece: Any) -> Tensor:
        """The loss, as the user computes it; under autocast it comes back in float32."""
        self.precision.used = self.precision.value
        if self.precision.value >= FULL:
            return loss_fn(self._model, piece)
        device = next(self._model.parameters()).device.type
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = loss_fn(self._model, piece)
        return loss.float() if isinstance(loss, Tensor) else loss
