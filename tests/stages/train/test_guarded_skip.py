"""A gradient that is not finite reaches nothing: every optimiser of torch, at any step."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ExponentialLR

from premortem.stages.train.ema import WeightEMA
from premortem.stages.train.grokfast import GrokfastEMA
from premortem.stages.train.guarded.stepper import Companions, Stepper

OPTIMISERS: dict[str, type[torch.optim.Optimizer]] = {
    name: kind
    for name, kind in vars(torch.optim).items()
    if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
}
MORE = {"SGD": {"momentum": 0.9}, "RMSprop": {"momentum": 0.5, "centered": True}, "LBFGS": {"max_iter": 3}}
STEPS = 6


class Bag(nn.Module):
    """Sparse embedding summed: what SparseAdam is for."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(12, 4, sparse=True)

    def forward(self, ids: Tensor) -> Tensor:
        return self.table(ids).sum(1)


def plain_net(*, bias: bool) -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8, bias=bias), nn.Tanh(), nn.Linear(8, 4, bias=bias))


def variants() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for name, kind in OPTIMISERS.items():
        known = inspect.signature(kind).parameters
        base = MORE.get(name, {})
        yield f"{name}", name, base
        for switch in ("foreach", "fused", "amsgrad", "capturable"):
            if switch in known and switch != "capturable":
                yield f"{name}-{switch}", name, {**base, switch: True}


VARIANTS = {label: (name, options) for label, name, options in variants()}


class Case:
    """One optimiser with all that moves beside it."""

    def __init__(self, label: str) -> None:
        name, options = VARIANTS[label]
        torch.manual_seed(7)
        self.sparse = name == "SparseAdam"
        self.model: nn.Module = Bag() if self.sparse else plain_net(bias=name != "Muon")
        self.optimizer = OPTIMISERS[name](self.model.parameters(), lr=0.01, **options)  # type: ignore[call-arg]
        self.scheduler = ExponentialLR(self.optimizer, 0.9)
        self.ema = WeightEMA(self.model, 0.9)
        self.filter = None if self.sparse or name == "LBFGS" else GrokfastEMA()
        self.stepper = Stepper(
            self.model, self.optimizer, Companions(self.scheduler, None, self.ema, self.filter), max_norm=1.0
        )
        self.poison: float | None = None
        first = next(self.model.parameters())
        first.register_post_accumulate_grad_hook(self._poison)
        data = torch.Generator().manual_seed(1)
        self.x = [
            torch.randint(0, 12, (8, 3), generator=data) if self.sparse else torch.randn(8, 5, generator=data)
            for _ in range(STEPS)
        ]
        self.y = [torch.randn(8, 4, generator=data) for _ in range(STEPS)]

    def _poison(self, parameter: nn.Parameter) -> None:
        if self.poison is not None and parameter.grad is not None:
            grad = parameter.grad
            if grad.is_sparse:
                grad = parameter.grad = grad.coalesce()
                grad = grad.values()
            grad.view(-1)[3] = self.poison

    def step(self, at: int) -> Any:
        def loss() -> Tensor:
            return nn.functional.mse_loss(self.model(self.x[at]), self.y[at])

        if self.stepper.needs_closure:
            return self.stepper.close_over(loss)
        return self.stepper.backward(loss())

    def everything(self) -> dict[str, Any]:
        return copy.deepcopy(
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "ema": self.ema.state_dict(),
                "filter": None if self.filter is None else self.filter.state_dict(),
            }
        )


def flat(tree: Any) -> list[Any]:
    """Leaves in a fixed order; tensors as their bytes."""
    if isinstance(tree, dict):
        return [leaf for key in sorted(tree, key=str) for leaf in (str(key), *flat(tree[key]))]
    if isinstance(tree, list | tuple):
        return [leaf for part in tree for leaf in flat(part)]
    if isinstance(tree, Tensor):
        return [str(tree.dtype), tuple(tree.shape), tree.detach().contiguous().view(-1).view(torch.uint8).tolist()]
    return [repr(tree)]


def test_every_optimiser_of_torch_is_among_the_cases() -> None:
    assert {name for name, _ in VARIANTS.values()} == set(OPTIMISERS)
    assert len(OPTIMISERS) >= 15


@pytest.mark.parametrize("at", [0, 1, 4])
@pytest.mark.parametrize("label", VARIANTS)
def test_one_nan_element_leaves_everything_bit_identical_and_training_goes_on(label: str, at: int) -> None:
    case = Case(label)
    for step in range(at):
        assert case.step(step).applied
    before = flat(case.everything())
    case.poison = math.nan
    stepped = case.step(at)
    assert not stepped.applied
    assert stepped.why == "not finite"
    assert flat(case.everything()) == before
    assert all(p.grad is None for p in case.model.parameters())
    case.poison = None
    for step in range(at + 1, STEPS):
        assert case.step(step).applied
    assert flat(case.everything()["model"]) != flat(before)
    assert case.stepper.weights_are_finite()


@pytest.mark.parametrize("label", ["SGD", "AdamW-fused", "SparseAdam", "Muon", "LBFGS"])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_infinite_elements_are_skipped_as_nan_is(label: str, value: float) -> None:
    case = Case(label)
    case.step(0)
    before = flat(case.everything())
    case.poison = value
    assert not case.step(1).applied
    assert flat(case.everything()) == before


@pytest.mark.parametrize("label", VARIANTS)
def test_the_run_after_a_skip_is_the_run_that_never_saw_the_batch(label: str) -> None:
    skipped, spared = Case(label), Case(label)
    for step in range(STEPS):
        skipped.poison = math.nan if step == 2 else None
        skipped.step(step)
        if step != 2:
            spared.step(step)
    assert flat(skipped.everything()) == flat(spared.everything())


def _net_with_statistics() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))


def test_running_statistics_are_those_before_a_poisoned_batch() -> None:
    torch.manual_seed(0)
    model = _net_with_statistics()
    stepper = Stepper(model, torch.optim.Adam(model.parameters()), Companions())
    x = torch.randn(16, 5)
    stepper.backward(model(x).square().mean())
    before = flat(model.state_dict())
    assert not stepper.backward(model(torch.full((16, 5), math.nan)).square().mean()).applied  # type: ignore[union-attr]
    assert flat(model.state_dict()) == before
    assert stepper.backward(model(x).square().mean()).applied  # type: ignore[union-attr]
    assert flat(model.state_dict()) != before


def test_a_nan_loss_with_finite_gradients_is_skipped() -> None:
    model = nn.Linear(3, 1)
    stepper = Stepper(model, torch.optim.SGD(model.parameters(), lr=0.1), Companions())
    before = flat(model.state_dict())
    loss = model(torch.ones(2, 3)).mean() + torch.tensor(math.nan)
    stepped = stepper.backward(loss)
    assert stepped is not None
    assert not stepped.applied
    assert math.isnan(stepped.loss)
    assert flat(model.state_dict()) == before


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_a_skip_clears_the_gradients_of_every_micro_batch(bad: int) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    stepper = Stepper(model, optimizer, Companions(), accumulate=3)
    before = flat([model.state_dict(), optimizer.state_dict()])
    for micro in range(3):
        x = torch.full((2, 3), math.nan if micro == bad else 1.0)
        stepped = stepper.backward(model(x).mean())
        assert (stepped is None) == (micro < 2)
    assert stepped is not None
    assert not stepped.applied
    assert flat([model.state_dict(), optimizer.state_dict()]) == before
    assert all(p.grad is None for p in model.parameters())
    for _ in range(3):
        stepped = stepper.backward(model(torch.ones(2, 3)).mean())
    assert stepped is not None
    assert stepped.applied


def _fp16_like(scale: float) -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=2)


@pytest.mark.parametrize("fused", [False, True])
def test_a_scaler_is_stepped_through_a_skip_as_in_plain_torch(fused: bool) -> None:
    def build() -> tuple[nn.Module, torch.optim.Optimizer, torch.amp.GradScaler]:
        torch.manual_seed(0)
        model = nn.Linear(3, 1)
        return model, torch.optim.AdamW(model.parameters(), fused=fused), _fp16_like(8.0)

    plain, plain_optimizer, plain_scaler = build()
    model, optimizer, scaler = build()
    stepper = Stepper(model, optimizer, Companions(scaler=scaler))
    for step in range(8):
        x = torch.full((2, 3), 1.0 + step)
        guarded_loss, loss = model(x).mean(), plain(x).mean()
        # an overflow of the scaled gradient alone: the loss stays finite
        hooks = [n.weight.register_hook(_overflow) for n in (model, plain)] if step in (0, 4) else []
        stepped = stepper.backward(guarded_loss)
        plain_scaler.scale(loss).backward()
        plain_scaler.unscale_(plain_optimizer)
        plain_scaler.step(plain_optimizer)
        plain_scaler.update()
        plain_optimizer.zero_grad()
        for hook in hooks:
            hook.remove()
        assert stepped is not None
        assert stepped.applied == (step not in (0, 4))
        assert scaler.state_dict() == plain_scaler.state_dict()
        assert flat(model.state_dict()) == flat(plain.state_dict())
        if stepped.applied:
            assert flat(optimizer.state_dict()) == flat(plain_optimizer.state_dict())


def _overflow(gradient: Tensor) -> Tensor:
    return gradient * math.inf


@pytest.mark.parametrize("fused", [False, True])
def test_a_norm_that_overflows_while_elements_are_finite_reaches_no_optimiser_behind_a_scaler(fused: bool) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
    scaler = _fp16_like(1.0)
    stepper = Stepper(model, optimizer, Companions(scaler=scaler))
    before = flat([model.state_dict(), optimizer.state_dict()])
    hook = model.weight.register_hook(lambda g: torch.full_like(g, 3e38))
    stepped = stepper.backward(model(torch.ones(2, 3)).mean())
    hook.remove()
    assert stepped is not None
    assert not stepped.applied
    assert flat([model.state_dict(), optimizer.state_dict()]) == before
    assert stepper.backward(model(torch.ones(2, 3)).mean()).applied  # type: ignore[union-attr]


def test_a_gradient_above_the_gate_never_reaches_the_weights() -> None:
    model = nn.Linear(3, 1)
    stepper = Stepper(model, torch.optim.SGD(model.parameters(), lr=0.1), Companions())
    stepper.gate = 1e-6
    before = flat(model.state_dict())
    stepped = stepper.backward(model(torch.ones(2, 3)).mean())
    assert stepped is not None
    assert "above" in stepped.why
    assert flat(model.state_dict()) == before


def test_clipping_is_that_of_torch_bit_for_bit_and_reaches_sparse_gradients() -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Linear(50, 40), nn.Linear(50, 40)
    theirs.load_state_dict(ours.state_dict())
    stepper = Stepper(ours, torch.optim.SGD(ours.parameters(), lr=1.0), Companions(), max_norm=0.01)
    x = torch.randn(9, 50)
    stepper.backward(ours(x).square().mean())
    optimizer = torch.optim.SGD(theirs.parameters(), lr=1.0)
    theirs(x).square().mean().backward()
    torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.01)
    optimizer.step()
    assert flat(ours.state_dict()) == flat(theirs.state_dict())

    table = nn.Embedding(6, 3, sparse=True)
    start = table.weight.detach().clone()
    sparse = Stepper(table, torch.optim.SGD(table.parameters(), lr=1.0), Companions(), max_norm=0.01)
    sparse.backward(table(torch.tensor([1, 1, 4])).square().sum())
    assert float((table.weight - start).detach().norm()) == pytest.approx(0.01, rel=1e-4)


def _factor_of(build: Callable[[nn.Module], torch.optim.Optimizer]) -> tuple[float, float]:
    """How far one step moves with the full rate and with a tenth of it."""
    moved = []
    for factor in (1.0, 0.1):
        torch.manual_seed(0)
        model = nn.Linear(4, 4, bias=False)
        stepper = Stepper(model, build(model), Companions())
        stepper.lr_factor.value = factor
        start = model.weight.detach().clone()
        stepper.backward(model(torch.ones(2, 4)).square().mean())
        moved.append(float((model.weight - start).detach().norm()))
    return moved[0], moved[1]


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Adafactor", "Muon", "NAdam"])
def test_the_factor_on_the_learning_rate_acts_and_leaves_the_group_as_it_was(name: str) -> None:
    full, tenth = _factor_of(lambda m: OPTIMISERS[name](m.parameters(), lr=0.01, weight_decay=0.0))  # type: ignore[call-arg]
    assert tenth == pytest.approx(full / 10, rel=1e-3)


def test_a_learning_rate_held_in_a_tensor_is_scaled_too() -> None:
    full, tenth = _factor_of(lambda m: torch.optim.AdamW(m.parameters(), lr=torch.tensor(0.01), weight_decay=0.0))
    assert tenth == pytest.approx(full / 10, rel=1e-3)
