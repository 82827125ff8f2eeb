"""The weight average against its definition, through a checkpoint, and swapped in for evaluation."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from premortem.core.errors import ConfigError
from premortem.stages.train.ema import WeightEMA


def model_of(width: int = 8) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Linear(width, 2))


def weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def move(model: nn.Module, steps: range, ema: WeightEMA) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator))
        ema.update(model)


def test_the_average_is_its_definition() -> None:
    model = model_of()
    ema, expected = WeightEMA(model, decay=0.8), weights(model)
    for step in range(5):
        move(model, range(step, step + 1), ema)
        expected = [0.8 * average + 0.2 * w for average, w in zip(expected, weights(model), strict=True)]
    for average, wanted in zip(ema.state_dict()["averages"].values(), expected, strict=True):
        torch.testing.assert_close(average, wanted)
    assert ema.num_updates == 5


def test_a_restored_average_goes_on_bit_for_bit_and_the_state_is_a_copy() -> None:
    model = model_of()
    ema = WeightEMA(model)
    move(model, range(4), ema)
    state, at_checkpoint = ema.state_dict(), weights(model)
    move(model, range(4, 9), ema)
    expected = ema.state_dict()
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), at_checkpoint, strict=True):
            parameter.copy_(value)
    restored = WeightEMA(model_of(), decay=0.5)
    restored.load_state_dict(state)
    move(model, range(4, 9), restored)
    found = restored.state_dict()
    assert (found["decay"], found["num_updates"]) == (0.999, 9)
    assert all(torch.equal(found["averages"][name], expected["averages"][name]) for name in expected["averages"])


def test_the_averages_are_in_the_model_inside_the_block_and_the_weights_after_it_even_on_an_error() -> None:
    model = model_of()
    ema = WeightEMA(model, decay=0.5)
    move(model, range(3), ema)
    live, averages = weights(model), list(ema.state_dict()["averages"].values())
    with contextlib.suppress(KeyboardInterrupt), ema.swapped_in(model):
        assert all(map(torch.equal, weights(model), averages))
        raise KeyboardInterrupt
    assert all(map(torch.equal, weights(model), live))
    assert all(map(torch.equal, ema.state_dict()["averages"].values(), averages))


def test_an_optimizer_goes_on_with_the_same_parameters_after_a_swap() -> None:
    model = model_of()
    ema = WeightEMA(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with ema.swapped_in(model):
        pass
    before = weights(model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert all(torch.equal(after, w - 1.0) for after, w in zip(weights(model), before, strict=True))


def test_a_frozen_parameter_is_not_averaged() -> None:
    model = model_of()
    first = model[0]
    assert isinstance(first, nn.Linear)
    first.weight.requires_grad_(requires_grad=False)
    assert "0.weight" not in WeightEMA(model).state_dict()["averages"]


@pytest.mark.parametrize("call", ["update", "state_dict", "swapped_in"])
def test_what_would_mix_averages_and_weights_is_refused_inside_the_block(call: str) -> None:
    model = model_of()
    ema = WeightEMA(model)
    calls: dict[str, Callable[[], object]] = {
        "update": lambda: ema.update(model),
        "state_dict": ema.state_dict,
        "swapped_in": lambda: ema.swapped_in(model).__enter__(),
    }
    refused = pytest.raises(ConfigError, match=rf"WeightEMA\.{call}\(\) called inside")
    with ema.swapped_in(model), refused:
        calls[call]()


def test_another_model_and_a_decay_out_of_range_are_refused() -> None:
    ema = WeightEMA(model_of())
    with pytest.raises(ConfigError, match=r"the model has 0\.bias with shape \(9,\), the weight EMA expects \(8,\)"):
        ema.update(model_of(9))
    with pytest.raises(ConfigError, match="the checkpoint's weight EMA has"):
        ema.load_state_dict(WeightEMA(model_of(9)).state_dict())
    with pytest.raises(ConfigError, match=r"decay is 1\.0"):
        WeightEMA(model_of(), decay=1.0)
