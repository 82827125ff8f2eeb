"""The filter against the published algorithm, and its state through a checkpoint."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from premortem.core.errors import ConfigError
from premortem.stages.train.grokfast import GrokfastEMA


def model_of(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def set_gradients(model: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def filtered(model: nn.Module, grokfast: GrokfastEMA, steps: range) -> list[Tensor]:
    gradients: list[Tensor] = []
    for step in steps:
        set_gradients(model, step)
        grokfast.apply(model)
        gradients += [p.grad.clone() for p in model.parameters() if p.grad is not None]
    return gradients


def test_the_filter_is_the_papers_algorithm() -> None:
    model, grokfast = model_of(0), GrokfastEMA(alpha=0.9, lamb=3.0)
    averages: list[Tensor] | None = None
    for step in range(6):
        set_gradients(model, step)
        raw = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        averages = raw if averages is None else averages
        averages = [0.9 * mu + 0.1 * g for mu, g in zip(averages, raw, strict=True)]
        grokfast.apply(model)
        for parameter, g, mu in zip(model.parameters(), raw, averages, strict=True):
            torch.testing.assert_close(parameter.grad, g + 3.0 * mu)


def test_a_restored_filter_goes_on_bit_for_bit_and_the_state_is_a_copy() -> None:
    model, grokfast = model_of(0), GrokfastEMA()
    filtered(model, grokfast, range(5))
    state = grokfast.state_dict()
    expected = filtered(model, grokfast, range(5, 10))
    restored = GrokfastEMA()
    restored.load_state_dict(state)
    first, again = filtered(model, restored, range(5, 10)), GrokfastEMA()
    assert all(map(torch.equal, expected, first))
    again.load_state_dict(state)
    assert all(map(torch.equal, expected, filtered(model, again, range(5, 10))))


def test_lambda_can_be_set_in_flight_and_survives_a_restore() -> None:
    model, grokfast = model_of(0), GrokfastEMA()
    filtered(model, grokfast, range(3))
    state = grokfast.state_dict()
    grokfast.lamb = 0.0
    grokfast.load_state_dict(state)
    assert grokfast.lamb == 0.0
    set_gradients(model, 3)
    raw = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    assert all(map(torch.equal, raw, filtered(model, grokfast, range(3, 4))))
    averaged = grokfast.state_dict()["averages"]
    assert not any(torch.equal(averaged[name], state["averages"][name]) for name in averaged)


def test_a_parameter_without_gradient_or_frozen_is_left_alone() -> None:
    model, grokfast = model_of(0), GrokfastEMA()
    grokfast.apply(model)
    assert grokfast.state_dict()["averages"] == {}
    first = model[0]
    assert isinstance(first, nn.Linear)
    set_gradients(model, 0)
    first.weight.requires_grad_(requires_grad=False)
    raw = first.weight.grad
    assert raw is not None
    raw = raw.clone()
    grokfast.apply(model)
    assert set(grokfast.state_dict()["averages"]) == {"0.bias", "2.weight", "2.bias"}
    assert torch.equal(raw, first.weight.grad)


def test_one_gradient_that_is_not_finite_stays_in_the_average_which_is_why_the_check_comes_first() -> None:
    model, grokfast = model_of(0), GrokfastEMA()
    set_gradients(model, 0)
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.grad.fill_(float("nan"))
    grokfast.apply(model)
    assert all(gradient.isnan().all() for gradient in filtered(model, grokfast, range(1, 3)))


@pytest.mark.parametrize(("alpha", "lamb"), [(1.0, 2.0), (-0.1, 2.0), (0.98, -1.0), (0.98, float("inf"))])
def test_parameters_out_of_range_are_refused(alpha: float, lamb: float) -> None:
    with pytest.raises(ConfigError, match="in GrokfastEMA: expected"):
        GrokfastEMA(alpha, lamb)


def test_state_of_another_model_or_alpha_is_refused() -> None:
    grokfast = GrokfastEMA()
    filtered(model_of(0), grokfast, range(1))
    with pytest.raises(ConfigError, match=r"made with alpha 0\.98, this filter has 0\.9"):
        GrokfastEMA(alpha=0.9).load_state_dict(grokfast.state_dict())
    other = nn.Sequential(nn.Linear(4, 9))
    set_gradients(other, 0)
    with pytest.raises(ConfigError, match=r"average of 0\.weight has shape \(8, 4\), its gradient \(9, 4\)"):
        grokfast.apply(other)
