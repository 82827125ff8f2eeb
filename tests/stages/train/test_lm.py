"""The model is causal, knows relative positions only, splits and recomputes exactly, and the recipe learns."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.utils.data import DataLoader

from premortem.core.errors import ConfigError
from premortem.stages.train.lm import DRILL, MEDIUM, SMALL, TINY, LanguageModel, LanguageModelConfig, Recipe, loss
from premortem.stages.train.text import ByteTokeniser, Windows, encode_corpus, read_standard_library

GELU = replace(TINY, activation="gelu", num_layers=1)


def model_of(config: LanguageModelConfig = TINY, seed: int = 0) -> LanguageModel:
    torch.manual_seed(seed)
    return LanguageModel(config)


def ids_of(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, 257, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("config", [TINY, GELU, replace(SMALL, vocab_size=257, num_layers=1)])
def test_the_stated_number_of_parameters_is_the_real_one(config: LanguageModelConfig) -> None:
    assert sum(p.numel() for p in model_of(config).parameters()) == config.num_parameters


def test_the_sizes_are_what_their_names_promise() -> None:
    assert 1e5 < TINY.num_parameters < 3e5
    assert 23.5e6 < SMALL.num_parameters < 24.5e6
    assert 24.5e6 < MEDIUM.num_parameters < 25.5e6


@pytest.mark.parametrize("config", [TINY, GELU])
def test_a_token_changes_no_logit_before_it_and_all_from_it_on(config: LanguageModelConfig) -> None:
    model, ids = model_of(config), ids_of(2, 20)
    changed = ids.clone()
    changed[:, 12] = (changed[:, 12] + 1) % 257
    difference = (model(ids) - model(changed)).abs().amax(dim=(0, 2))
    assert torch.all(difference[:12] == 0)
    assert torch.all(difference[12:] > 1e-6)


def test_attention_depends_on_distance_and_not_on_absolute_position() -> None:
    model, ids = model_of(replace(TINY, num_layers=1)), ids_of(1, 8)
    attention, x = model.blocks[0].attention, model.embedding(ids)
    here = attention(x, model.cos[:8], model.sin[:8])
    shifted = attention(x, model.cos[30:38], model.sin[30:38])
    torch.testing.assert_close(here, shifted, atol=1e-5, rtol=1e-4)
    stretched = attention(x, model.cos[:16:2], model.sin[:16:2])
    assert (here - stretched).abs().max() > 1e-3


def test_the_loss_is_the_mean_over_tokens_and_that_of_guessing_at_first() -> None:
    model, windows = model_of(), ids_of(6, 33)
    logits, targets = model(windows[:, :-1]), windows[:, 1:]
    by_hand = -logits.log_softmax(-1).gather(-1, targets.unsqueeze(-1)).mean()
    torch.testing.assert_close(loss(model, windows), by_hand)
    assert abs(loss(model, windows).item() - math.log(257)) < 1.0
    in_parts = (4 * loss(model, windows[:4]) + 2 * loss(model, windows[4:])) / 6
    torch.testing.assert_close(loss(model, windows), in_parts)


def test_recomputing_activations_gives_bit_identical_gradients_with_dropout_too() -> None:
    gradients = []
    for recompute in (False, True):
        model = model_of(replace(TINY, dropout=0.2))
        model.recompute_activations = recompute
        torch.manual_seed(7)
        loss(model, ids_of(4, 33)).backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(g is not None and h is not None and torch.equal(g, h) for g, h in zip(*gradients, strict=True))


def test_dropout_acts_in_training_only() -> None:
    model, ids = model_of(replace(TINY, dropout=0.5)), ids_of(1, 8)
    assert not torch.equal(model(ids), model(ids))
    model.eval()
    assert torch.equal(model(ids), model(ids))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 60}, "width divisible by 8"),
        ({"num_layers": 0}, "num_layers is 0"),
        ({"dropout": 1.0}, r"dropout is 1\.0"),
        ({"activation": "relu"}, "activation is 'relu'"),
    ],
)
def test_an_impossible_shape_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(TINY, **change)  # type: ignore[arg-type]


def test_a_sequence_beyond_the_context_and_a_warm_up_beyond_the_run_are_refused() -> None:
    with pytest.raises(ConfigError, match="sequence of 65 tokens"):
        model_of()(ids_of(1, 65))
    with pytest.raises(ConfigError, match="warmup_steps is 20 with num_steps 20"):
        Recipe(num_steps=20)


def test_the_rate_warms_up_peaks_and_ends_at_zero() -> None:
    model = model_of()
    optimizer = DRILL.optimizer(model)
    scheduler = DRILL.scheduler(optimizer)
    rates = []
    for _ in range(DRILL.num_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[0] == pytest.approx(DRILL.peak_lr / DRILL.warmup_steps)
    assert max(rates) == pytest.approx(DRILL.peak_lr)
    assert rates[-1] < 1e-3 * DRILL.peak_lr
    assert scheduler.get_last_lr()[0] == pytest.approx(0.0)


def test_the_drill_recipe_at_a_quarter_of_its_length_learns_real_text() -> None:
    recipe = replace(DRILL, corpus_tokens=1_024, num_steps=100)
    corpus = read_standard_library(max_bytes=16_384, kinds=("docstring",))
    windows = Windows(encode_corpus(corpus, ByteTokeniser())[: recipe.corpus_tokens], TINY.context, recipe.stride)
    model = model_of(recipe.model)
    optimizer = recipe.optimizer(model)
    scheduler = recipe.scheduler(optimizer)
    loader = DataLoader(windows, recipe.batch_size, shuffle=True, drop_last=True)
    batches = (batch for _ in range(recipe.num_steps) for batch in loader)
    for _, batch in zip(range(recipe.num_steps), batches, strict=False):
        optimizer.zero_grad()
        loss(model, batch).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimizer.step()
        scheduler.step()
    with torch.no_grad():
        assert loss(model, torch.stack([windows[i] for i in range(len(windows))])).item() < 0.5
