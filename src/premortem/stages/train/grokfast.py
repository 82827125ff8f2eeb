"""Grokfast: amplify the slow part of each gradient with an exponential moving average (EMA).

Source: Lee et al. 2024, arXiv 2405.20233, algorithm Grokfast-EMA; published defaults alpha 0.98, lambda 2.0.
The average is training state: it belongs in the checkpoint bundle, and a gradient that is not finite must be
stopped *before* this filter, since one NaN would stay in the average for ever.
"""

from __future__ import annotations

from typing import TypedDict

import torch
from torch import Tensor, nn

from premortem.core.errors import ConfigError


class GrokfastState(TypedDict):
    """What a checkpoint keeps: the decay, and one average per parameter name, shaped as its gradient."""

    alpha: float
    averages: dict[str, Tensor]


class GrokfastEMA:
    """Adds ``lamb`` times the running average of the gradient to the gradient, in place.

    ``lamb`` may be set at any time (0 switches the amplification off while the average keeps tracking). It is
    a control, not state: :meth:`load_state_dict` leaves it alone, so a restore does not undo an override.
    """

    def __init__(self, alpha: float = 0.98, lamb: float = 2.0) -> None:
        if not 0.0 <= alpha < 1.0:
            raise ConfigError(f"alpha is {alpha} in GrokfastEMA: expected 0 <= alpha < 1; the paper uses 0.98")
        self.alpha = alpha
        self.lamb = lamb
        self._averages: dict[str, Tensor] = {}

    @property
    def lamb(self) -> float:
        """How strongly the slow component is added; a finite number >= 0."""
        return self._lamb

    @lamb.setter
    def lamb(self, value: float) -> None:
        if not 0.0 <= value < float("inf"):
            raise ConfigError(f"lambda is {value} in GrokfastEMA: expected a finite number >= 0; the paper uses 2.0")
        self._lamb = value

    @torch.no_grad()
    def apply(self, model: nn.Module) -> None:
        """Filter the gradients of ``model`` in place: after backward and finite check, before the step.

        A parameter without a gradient is left out, and its average stays as it was. The first gradient seen
        becomes the average itself. Raises ``ConfigError`` when a restored average has another shape.
        """
        names, gradients = [], []
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and parameter.grad is not None:
                names.append(name)
                gradients.append(parameter.grad)
        if not gradients:
            return
        averages = [self._average(name, grad) for name, grad in zip(names, gradients, strict=True)]
        torch._foreach_mul_(averages, self.alpha)
        torch._foreach_add_(averages, gradients, alpha=1.0 - self.alpha)
        torch._foreach_add_(gradients, averages, alpha=self.lamb)

    def _average(self, name: str, gradient: Tensor) -> Tensor:
        known = self._averages.get(name)
        if known is None:
            known = gradient.clone()
        elif known.shape != gradient.shape:
            raise ConfigError(
                f"Grokfast average of {name} has shape {tuple(known.shape)}, its gradient "
                f"{tuple(gradient.shape)}: the state comes from another model; load the matching checkpoint"
            )
        self._averages[name] = known.to(device=gradient.device, dtype=gradient.dtype)
        return self._averages[name]

    def state_dict(self) -> GrokfastState:
        """A copy that later steps do not change."""
        return {"alpha": self.alpha, "averages": {name: avg.clone() for name, avg in self._averages.items()}}

    def load_state_dict(self, state: GrokfastState) -> None:
        """Take over the averages bit for bit; ``ConfigError`` when they were made with another alpha."""
        if state["alpha"] != self.alpha:
            raise ConfigError(
                f"Grokfast state was made with alpha {state['alpha']}, this filter has {self.alpha}: "
                "build the filter with the checkpoint's alpha"
            )
        self._averages = {name: avg.detach().clone() for name, avg in state["averages"].items()}
