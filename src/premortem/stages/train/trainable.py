"""A training run that is ready to go: what is trained, on what, for how long, and how well it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from premortem.stages.train.ema import WeightEMA
from premortem.stages.train.grokfast import GrokfastEMA
from premortem.stages.train.lm import DRILL, LanguageModel, Recipe
from premortem.stages.train.lm import loss as next_token_loss
from premortem.stages.train.text import ByteTokeniser, Windows, encode_corpus, read_standard_library


@dataclass(slots=True, kw_only=True)
class Trainable:
    """One seeded run. ``loss(model, batch)`` is a mean; ``outcome()`` is what its owner gets, lower is better."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LambdaLR
    loader: DataLoader[Any]
    loss: Callable[[nn.Module, Any], Tensor]
    outcome: Callable[[], float]
    num_steps: int
    max_norm: float
    ema: WeightEMA | None = None
    gradient_filter: GrokfastEMA | None = None
    extra: dict[str, object] = field(default_factory=dict)

    def batches(self) -> Iterator[Any]:
        """Epoch after epoch, without end."""
        while True:
            yield from self.loader


@cache
def _windows(corpus_tokens: int, context: int, stride: int) -> Windows:
    corpus = read_standard_library(max_bytes=8 * corpus_tokens, kinds=("docstring",))
    return Windows(encode_corpus(corpus, ByteTokeniser())[:corpus_tokens], context, stride)


def small_language_model(seed: int, recipe: Recipe = DRILL, **changes: Any) -> Trainable:
    """The drill workload: a small language model that learns standard-library text to its floor.

    The outcome is the mean loss in nats over all of its training windows, after the last step.
    """
    recipe = replace(recipe, **changes)
    torch.manual_seed(seed)
    windows = _windows(recipe.corpus_tokens, recipe.model.context, recipe.stride)
    model = LanguageModel(recipe.model)
    optimizer = recipe.optimizer(model)
    order = torch.Generator().manual_seed(seed)
    loader = DataLoader(windows, recipe.batch_size, shuffle=True, drop_last=True, generator=order)
    everything = torch.stack([windows[i] for i in range(len(windows))])

    def outcome() -> float:
        model.eval()
        with torch.no_grad():
            value = float(next_token_loss(model, everything))
        model.train()
        return value

    return Trainable(
        model=model, optimizer=optimizer, scheduler=recipe.scheduler(optimizer), loader=loader,
        loss=next_token_loss, outcome=outcome, num_steps=recipe.num_steps, max_norm=recipe.clip_norm,
    )  # fmt: skip
