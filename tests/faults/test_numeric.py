"""Poisoned numbers, seen by a small real training that has no part in the fault."""

import math
from collections import namedtuple
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
)

from premortem.core.errors import ConfigError
from premortem.faults.numeric import LearningRateJump, PoisonedBatches, PoisonedGradient, PoisonedOutput

Batch = tuple[Tensor, Tensor]


@pytest.fixture
def data() -> list[Batch]:
    rng = torch.Generator().manual_seed(0)
    return [(torch.randn(8, 4, generator=rng), torch.randn(8, 1, generator=rng)) for _ in range(6)]


@pytest.fixture
def model() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, 1)


def train(model: nn.Module, batches: Iterator[Batch] | PoisonedBatches[Batch] | list[Batch]) -> list[float]:
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=1e-2), []
    for x, y in batches:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def is_finite(model: nn.Module) -> bool:
    return all(bool(p.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_poisoned_batch_makes_a_real_training_nan(data, model, value: float) -> None:
    kept = [(x.clone(), y.clone()) for x, y in data]
    with PoisonedBatches(data, at={2}, value=value, part=0) as fault:
        losses = train(model, fault)
    assert all(math.isfinite(loss) for loss in losses[:2])
    assert not any(math.isfinite(loss) for loss in losses[2:])
    assert not is_finite(model)
    assert fault.observed().holds
    assert "1 elements changed in 1 batches handed out, 1 not finite" in fault.observed().detail
    assert fault.gone().holds
    assert all(torch.equal(a, b) for one, two in zip(kept, data, strict=True) for a, b in zip(one, two, strict=True))


def test_a_huge_value_is_seen_and_is_finite(data, model) -> None:
    with PoisonedBatches(data, at=range(1, 3), value=1e6, num=3, part=0) as fault:
        losses = train(model, fault)
    assert losses[1] > 1e6 * losses[0]
    assert "6 elements changed in 2 batches" in fault.observed().detail
    assert fault.observed().holds


@pytest.mark.parametrize("raised", [RuntimeError, KeyboardInterrupt])
def test_batches_are_clean_again_after_an_error(data, model, raised: type[BaseException]) -> None:
    fault = PoisonedBatches(data, at=None, part=0)
    with pytest.raises(raised), fault:  # noqa: PT012
        next(iter(fault))
        raise raised
    assert fault.gone().holds
    train(model, fault)
    assert is_finite(model)


def test_an_iterator_that_lives_on_hands_out_clean_batches(data) -> None:
    fault = PoisonedBatches(data, at=None)
    with fault:
        batches = iter(fault)
        assert next(batches)[0].isnan().any()
    assert not next(batches)[0].isnan().any()
    assert len(fault) == 6


def test_batches_pass_untouched_before_the_fault_is_entered(data) -> None:
    fault = PoisonedBatches(data, at=None)
    assert all(a is b for a, b in zip(fault, data, strict=True))
    assert fault.hand_out(data[0], 0) is data[0]
    assert fault.observed().holds is False


def test_steps_go_on_over_epochs_and_a_fetched_step_is_hit_again(data) -> None:
    with PoisonedBatches(data, at={7}) as fault:
        hit = [bool(x.isnan().any()) for _ in range(2) for x, _ in fault]
        assert hit == [False] * 7 + [True] + [False] * 4
        for _ in range(2):
            assert fault.hand_out(data[1], 7)[0].isnan().any()


def test_a_fault_that_hit_no_step_is_not_observed(data, model) -> None:
    with PoisonedBatches(data, at={99}) as fault:
        train(model, fault)
    assert fault.observed().holds is False
    assert fault.gone().holds is None


def test_a_poisoning_that_damages_the_source_is_never_gone(data) -> None:
    class InPlace(PoisonedBatches[Batch]):
        def _disturb(self, batch: Batch, step: int) -> Batch:
            batch[0][0, 0] = math.nan
            return batch

    with InPlace(data, at={0}) as fault:
        list(fault)
    assert fault.observed().holds
    assert fault.gone().holds is False


def test_a_poisoning_left_behind_is_seen_by_gone(data) -> None:
    class Sticky(PoisonedBatches[Batch]):
        def _undo(self) -> None:
            pass

    with Sticky(data, at={0}) as fault:
        list(fault)
    assert fault.gone().holds is False


def test_a_poisoning_that_poisons_nothing_is_not_observed(data) -> None:
    class Idle(PoisonedBatches[Batch]):
        def _disturb(self, batch: Batch, step: int) -> Batch:
            return batch

    with Idle(data, at=None) as fault:
        list(fault)
    assert fault.observed().holds is False


Named = namedtuple("Named", "x ids")


@pytest.mark.parametrize(
    ("batch", "pick"),
    [
        (torch.ones(2, 2), lambda b: b),
        ({"x": torch.ones(2), "text": ["a"]}, lambda b: b["x"]),
        ([torch.ones(2), 5], lambda b: b[0]),
        (Named(torch.ones(2), torch.arange(2)), lambda b: b.x),
        ({"deep": (torch.ones(2, dtype=torch.bfloat16),)}, lambda b: b["deep"][0]),
    ],
)
def test_any_structure_of_batch_keeps_its_kind(batch: object, pick: Callable[[object], Tensor]) -> None:
    with PoisonedBatches([batch], at=None) as fault:
        (poisoned,) = fault
    assert type(poisoned) is type(batch)
    assert int(pick(poisoned).isnan().sum()) == 1
    assert fault.gone().holds


def test_token_batches_point_to_the_embedding() -> None:
    with (
        pytest.raises(ConfigError, match="use PoisonedOutput on the embedding"),
        PoisonedBatches([torch.arange(4)], None) as f,
    ):
        list(f)
    with pytest.raises(ConfigError, match="'y' not found"), PoisonedBatches([{"x": 1}], None, part="y") as f:
        list(f)


def test_token_training_is_poisoned_at_the_embedding_in_training_mode_only() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(12, 1))
    tokens, optimizer = torch.randint(10, (5, 3)), torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    with PoisonedOutput(model[0], at={1}) as fault:
        model.eval()
        assert model(tokens).isfinite().all()
        model.train()
        for _ in range(3):
            optimizer.zero_grad()
            loss = model(tokens).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert fault.gone().holds is False
    assert [math.isfinite(loss) for loss in losses] == [True, False, False]
    assert fault.observed().holds
    assert fault.gone().holds
    assert len(model[0]._forward_hooks) == 0


def test_an_output_that_cannot_be_poisoned_is_refused() -> None:
    with (
        pytest.raises(ConfigError, match="expected one float tensor"),
        PoisonedOutput(nn.Identity(), None) as f,
    ):
        f.module(torch.arange(3))


@pytest.mark.parametrize("raised", [RuntimeError, KeyboardInterrupt])
def test_one_gradient_element_is_poisoned_at_the_chosen_passes(model, raised: type[BaseException]) -> None:
    x, seen = torch.ones(2, 4), []
    fault = PoisonedGradient(model.weight, at={1}, value=math.inf, element=2)
    with pytest.raises(raised), fault:  # noqa: PT012
        for _ in range(3):
            model.zero_grad()
            model(x).sum().backward()
            seen.append(model.weight.grad.isinf().flatten().tolist())
        assert fault.gone().holds is False
        raise raised
    assert seen == [[False] * 4, [False, False, True, False], [False] * 4]
    assert fault.observed().holds
    assert fault.gone().holds
    model.zero_grad()
    model(x).sum().backward()
    assert model.weight.grad.isfinite().all()


def test_a_poisoned_gradient_destroys_a_real_training(data, model) -> None:
    with PoisonedGradient(model.weight, at={3}) as fault:
        losses = train(model, data)
    assert [math.isfinite(loss) for loss in losses] == [True] * 4 + [False] * 2
    assert fault.observed().holds


@pytest.mark.parametrize("kind", [PoisonedGradient, PoisonedOutput])
def test_a_hook_left_behind_is_seen_by_gone(model, kind) -> None:
    class Sticky(kind):
        def _undo(self) -> None:
            pass

    with Sticky(model.weight if kind is PoisonedGradient else model, at=None) as fault:
        pass
    assert fault.observed().holds is False
    assert fault.gone().holds is False


def test_an_element_outside_the_gradient_is_refused(model) -> None:
    with pytest.raises(ConfigError, match="element 4, expected 0 to 3"):
        PoisonedGradient(model.weight, None, element=4)


SCHEDULES: dict[str, Callable[[torch.optim.Optimizer], LRScheduler]] = {
    "lambda": lambda o: LambdaLR(o, lambda step: 1 / (1 + step)),
    "one cycle": lambda o: OneCycleLR(o, max_lr=0.1, total_steps=20, cycle_momentum=False),
    "cosine": lambda o: CosineAnnealingLR(o, T_max=20),
    "exponential": lambda o: ExponentialLR(o, 0.9),
}


def sgd_changes(schedule: str, faulty: range, factor: float = 100.0) -> tuple[list[float], list[float], object]:
    """How far one weight moves at each of 9 steps with gradient 1: the learning rate itself."""
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.SGD([weight], lr=0.01)
    scheduler = SCHEDULES[schedule](optimizer)
    fault, moved, rates = LearningRateJump(optimizer, factor), [], []
    for step in range(9):
        if step == faulty.start:
            fault.__enter__()
        if step == faulty.stop:
            fault.__exit__(None, None, None)
        before = weight.item()
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        scheduler.step()
        moved.append(before - weight.item())
        rates.append(optimizer.param_groups[0]["lr"])
    return moved, rates, fault


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_jump_holds_under_a_scheduler_and_leaves_the_schedule_exact(schedule: str) -> None:
    clean, clean_rates, _ = sgd_changes(schedule, range(50, 51))
    moved, rates, fault = sgd_changes(schedule, range(3, 6))
    ratios = [a / b for a, b in zip(moved, clean, strict=True)]
    assert ratios == pytest.approx([1, 1, 1, 100, 100, 100, 1, 1, 1], rel=1e-9)
    assert rates == clean_rates
    assert fault.observed().holds
    assert "x100 in 3 of 3" in fault.observed().detail
    assert fault.gone().holds


def test_the_jump_holds_under_plateau_and_after_a_restored_checkpoint() -> None:
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.SGD([weight], lr=0.01)
    scheduler, saved = ReduceLROnPlateau(optimizer, patience=0), optimizer.state_dict()
    moved = []
    with LearningRateJump(optimizer, 10) as fault:
        for step in range(4):
            if step == 3:
                optimizer.load_state_dict(saved)
            before, weight.grad = weight.item(), torch.ones_like(weight)
            optimizer.step()
            moved.append(before - weight.item())
            scheduler.step(1.0)
    assert moved == pytest.approx([0.1, 0.1, 0.01, 0.1])
    assert fault.gone().holds


@pytest.mark.parametrize("raised", [RuntimeError, KeyboardInterrupt])
def test_the_rate_is_back_after_an_error_inside_the_step(model, raised: type[BaseException]) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def closure() -> float:
        raise raised

    fault = LearningRateJump(optimizer, 100)
    with pytest.raises(raised), fault:
        optimizer.step(closure)
    assert optimizer.param_groups[0]["lr"] == 0.01
    assert "step" not in vars(optimizer)
    assert fault.observed().holds
    assert fault.gone().holds


def test_a_guard_that_scales_in_hooks_and_a_scheduler_made_meanwhile_both_keep_working() -> None:
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.SGD([weight], lr=0.01)
    group = optimizer.param_groups[0]
    held: list[float] = []

    def halve(*_: object) -> None:
        held.append(group["lr"])
        group["lr"] *= 0.5

    def step() -> float:
        before, weight.grad = weight.item(), torch.ones_like(weight)
        optimizer.step()
        return before - weight.item()

    with LearningRateJump(optimizer, 100) as fault:
        optimizer.register_step_pre_hook(halve)
        optimizer.register_step_post_hook(lambda *_: group.update(lr=held.pop()))
        scheduler = LambdaLR(optimizer, lambda _: 1.0)
        assert step() == pytest.approx(0.5)
        scheduler.step()
    assert step() == pytest.approx(0.005)
    assert group["lr"] == 0.01
    assert fault.gone().holds


def test_a_jump_left_behind_is_seen_by_gone(model) -> None:
    class Sticky(LearningRateJump):
        def _undo(self) -> None:
            pass

    with Sticky(torch.optim.SGD(model.parameters(), lr=0.01), 100) as fault:
        pass
    assert fault.observed().holds is False, "no step ran"
    assert fault.gone().holds is False


@pytest.mark.parametrize("factor", [0, 1, -2, math.inf, math.nan])
def test_a_factor_that_is_no_jump_is_refused(model, factor: float) -> None:
    with pytest.raises(ConfigError, match="factor is"):
        LearningRateJump(torch.optim.SGD(model.parameters(), lr=0.01), factor)
