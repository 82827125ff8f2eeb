"""Exponential moving average of a model's weights, swapped in for evaluation.

Source: Polyak averaging in its exponential form; decay 0.999 as used by TRM (Jolicoeur-Martineau 2025).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypedDict

import torch
from torch import Tensor, nn

from premortem.core.errors import ConfigError


class WeightEMAState(TypedDict):
    """What a checkpoint keeps: decay, number of updates, one averaged tensor per parameter name."""

    decay: float
    num_updates: int
    averages: dict[str, Tensor]


class WeightEMA:
    """Averages the trainable floating-point parameters of one model; buffers are not averaged.

    An update sets ``average = decay * average + (1 - decay) * weight``, from the weights at construction on.
    Do not call :meth:`update` for a skipped step: then a skip leaves the average bit-identical.
    """

    def __init__(self, model: nn.Module, decay: float = 0.999) -> None:
        if not 0.0 <= decay < 1.0:
            raise ConfigError(f"decay is {decay} in WeightEMA: expected 0 <= decay < 1, for example 0.999")
        self.decay = decay
        self.num_updates = 0
        self._is_swapped = False
        self._averages = {name: weight.detach().clone() for name, weight in _averaged(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move every average towards the present weight. Raises ``ConfigError`` inside :meth:`swapped_in`."""
        self._refuse_while_swapped("update")
        weights = self._matching(model)
        averages = [self._averages[name] for name in weights]
        torch._foreach_lerp_(averages, [w.detach() for w in weights.values()], 1.0 - self.decay)
        self.num_updates += 1

    @contextmanager
    def swapped_in(self, model: nn.Module) -> Iterator[None]:
        """Evaluate with the averages: weights and averages change places, and back bit for bit at the end.

        No copy is made, so it costs no memory. The weights return on an exception and on Ctrl-C too.
        """
        self._refuse_while_swapped("swapped_in")
        weights = self._matching(model)
        self._exchange(weights)
        self._is_swapped = True
        try:
            yield
        finally:
            self._exchange(weights)
            self._is_swapped = False

    def state_dict(self) -> WeightEMAState:
        """A copy that later updates do not change."""
        self._refuse_while_swapped("state_dict")
        averages = {name: average.clone() for name, average in self._averages.items()}
        return {"decay": self.decay, "num_updates": self.num_updates, "averages": averages}

    def load_state_dict(self, state: WeightEMAState) -> None:
        """Take over averages, decay and count bit for bit; ``ConfigError`` when names or shapes differ."""
        self._refuse_while_swapped("load_state_dict")
        _require_same_tensors(self._averages, state["averages"], found_in="the checkpoint's weight EMA")
        for name, average in self._averages.items():
            average.copy_(state["averages"][name])
        self.decay, self.num_updates = state["decay"], state["num_updates"]

    def _matching(self, model: nn.Module) -> dict[str, nn.Parameter]:
        weights = _averaged(model)
        _require_same_tensors(self._averages, weights, found_in="the model")
        return weights

    def _exchange(self, weights: dict[str, nn.Parameter]) -> None:
        for name, weight in weights.items():
            weight.data, self._averages[name] = self._averages[name], weight.data

    def _refuse_while_swapped(self, what: str) -> None:
        if self._is_swapped:
            raise ConfigError(
                f"WeightEMA.{what}() called inside swapped_in(), where the model holds the averages: "
                "leave the evaluation block first"
            )


def _averaged(model: nn.Module) -> dict[str, nn.Parameter]:
    return {n: p for n, p in model.named_parameters() if p.requires_grad and p.is_floating_point()}


def _require_same_tensors(
    expected: dict[str, Tensor], found: dict[str, Tensor] | dict[str, nn.Parameter], *, found_in: str
) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    present = {name: tuple(tensor.shape) for name, tensor in found.items()}
    if wanted != present:
        name = min(name for name in wanted.keys() | present.keys() if wanted.get(name) != present.get(name))
        raise ConfigError(
            f"{found_in} has {name} with shape {present.get(name, 'absent')}, the weight EMA expects "
            f"{wanted.get(name, 'no such tensor')}: build the EMA on the model that it averages"
        )
