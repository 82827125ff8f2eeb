"""A lost device, seen by a real training that has no part in the fault."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from premortem.core.errors import ConfigError
from premortem.faults.device import DeviceBusy, DeviceLost


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))


def held_by(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    yield from model.parameters()
    for state in optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, Tensor))


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()


def test_a_real_step_dies_and_the_next_one_after_the_fault_works(model) -> None:
    optimizer = torch.optim.AdamW(model.parameters())
    step(model, optimizer)
    fault = DeviceLost(lambda: held_by(model, optimizer))
    with fault:
        with pytest.raises(RuntimeError, match="launch failure"):
            step(model, optimizer)
        assert fault.gone().holds is False
    assert fault.observed().holds
    assert fault.gone().holds
    step(model, optimizer)


def test_what_is_made_after_the_loss_works(model) -> None:
    fresh = nn.Linear(4, 1)
    with DeviceLost(model.parameters) as fault:
        step(fresh, torch.optim.SGD(fresh.parameters()))
        assert fault.observed().holds is False


def test_the_optimiser_alone_can_meet_it(model) -> None:
    optimizer = torch.optim.AdamW(model.parameters())
    step(model, optimizer)
    model(torch.ones(2, 4)).sum().backward()
    before = [p.detach().clone() for p in model.parameters()]
    with DeviceLost(lambda: held_by(model, optimizer)), pytest.raises(RuntimeError, match="launch failure"):
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_device_that_was_busy_comes_back(model) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with DeviceBusy(refusals=2) as fault:
        for _ in range(2):
            with pytest.raises(torch.AcceleratorError, match="busy"):
                torch.ones(1)
        step(model, optimizer)
    assert fault.num_refused == 2
    assert fault.gone().holds


def test_memory_taken_anew_can_be_lost_again(model) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def take_anew() -> None:
        for parameter in model.parameters():
            parameter.data = torch.zeros(parameter.shape)

    with DeviceLost(model.parameters, loses_again=1):
        for _ in range(2):
            with pytest.raises(torch.AcceleratorError):
                step(model, optimizer)
            take_anew()
        for parameter in model.parameters():
            parameter.grad = None
        step(model, optimizer)


def test_nothing_to_lose_is_the_users_mistake() -> None:
    with pytest.raises(ConfigError, match="no tensor to lose"), DeviceLost(list):
        pass
