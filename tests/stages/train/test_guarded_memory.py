"""What the ladder turns to save memory acts, changes no number that it should not, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from premortem.core.action import Override, Owner
from premortem.stages.train.guarded.fit import Fit
from premortem.stages.train.guarded.fitting import Fitting
from premortem.stages.train.guarded.forward import Forward
from premortem.stages.train.guarded.gauge import HostMemory, Look
from premortem.stages.train.guarded.recompute import Recompute, blocks_of
from premortem.stages.train.guarded.relief import Caches, IdleModels
from premortem.stages.train.guarded.stepper import Companions, Stepper
from premortem.stages.train.guarded.trying import Trying

OWNER = Owner(1, "a rung")
ON = Override("choose", 1.0)


def network() -> nn.Sequential:
    torch.manual_seed(0)

    def block() -> nn.Sequential:
        return nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.Tanh())

    return nn.Sequential(block(), block(), block())


def gradients(model: nn.Module) -> list[Tensor]:
    torch.manual_seed(1)
    model(torch.randn(16, 6)).square().mean().backward()
    found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    return found + [b.clone() for b in model.buffers()]


def test_activations_computed_again_give_the_very_gradients_and_the_very_forwards_come_back() -> None:
    kept = gradients(network())
    model = network()
    own = [block.forward for block in model]
    control = Recompute(model)
    assert control.is_possible
    control.turn(OWNER, ON)
    assert control.read() == 1.0
    again = gradients(model)
    assert control.num_recomputed == 3
    assert all(torch.equal(a, b) for a, b in zip(kept, again, strict=True))
    control.undo(OWNER)
    assert control.read() == 0.0
    assert [block.forward for block in model] == own
    assert all("forward" not in block.__dict__ for block in model)


def test_somebody_elses_wrapped_forward_comes_back_too() -> None:
    model = network()
    theirs = model[0].forward
    model[0].forward = theirs
    control = Recompute(model)
    control.turn(OWNER, ON)
    control.undo(OWNER)
    assert model[0].__dict__["forward"] is theirs


def test_a_single_layer_has_no_blocks() -> None:
    assert blocks_of(nn.Linear(3, 3)) == []
    assert not Recompute(nn.Linear(3, 3)).is_possible


def test_mixed_precision_really_computes_in_bfloat16() -> None:
    seen: list[torch.dtype] = []
    model = nn.Linear(8, 8)

    def loss_of(model: nn.Module, x: Tensor) -> Tensor:
        out = model(x)
        seen.append(out.dtype)
        value: Tensor = out.square().mean()
        return value

    forward = Forward(model)
    forward(loss_of, torch.randn(2, 8))
    forward.precision.turn(OWNER, Override("cap", 16.0))
    loss = forward(loss_of, torch.randn(2, 8))
    assert seen == [torch.float32, torch.bfloat16]
    assert loss.dtype == torch.float32
    assert forward.precision.read() == 16.0


def test_an_idle_model_leaves_memory_and_comes_back_when_called(tmp_path: Path) -> None:
    teacher = nn.Linear(32, 32)
    x = torch.randn(4, 32)
    expected = teacher(x)
    control = IdleModels([teacher], tmp_path)
    control.turn(OWNER, Override("cap", 0.0))
    assert control.read() == 0.0
    assert sum(p.numel() for p in teacher.parameters()) == 0
    assert torch.equal(teacher(x), expected)
    assert control.read() == 1.0
    assert list(tmp_path.iterdir()) == []


def test_caches_are_emptied_every_so_many_steps() -> None:
    emptied: list[int] = []
    seen: list[int] = []
    control = Caches(HostMemory(), [lambda: emptied.append(1)], lambda: seen.append(len(emptied)))
    for _ in range(8):
        control.stepped()
    assert not emptied
    control.turn(OWNER, Override("cap", 4.0))
    control.stepped()
    assert emptied == [1], "with the very next step"
    for _ in range(8):
        control.stepped()
    assert len(emptied) == 3
    assert seen == [1, 2, 3]


@given(
    fixed=st.integers(0, 1000), slope=st.integers(1, 100), sizes=st.lists(st.integers(1, 500), min_size=1, max_size=8),
    asked=st.integers(1, 1000), room=st.integers(0, 100_000),
)  # fmt: skip
def test_need_is_never_underestimated_beyond_what_was_measured(
    fixed: int, slope: int, sizes: list[int], asked: int, room: int
) -> None:
    fit = Fit()
    for size in sizes:
        fit.measured(size, fixed + slope * size)
    need = fit.need(asked)
    assert need is not None
    assert need >= fixed + slope * asked - 1e-6
    fits = fit.largest(room, asked, lambda n: n)
    assert fits == 0 or fixed + slope * fits <= room


class SetLimit(HostMemory):
    """The real memory of this process, under a limit that is set and far: what a container has."""

    def look(self) -> Look | None:
        found = super().look()
        return None if found is None else Look(found.used, found.used + (1 << 34), "a set limit", is_set=True)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_trial_and_its_measurements_leave_no_trace(accumulate: int) -> None:
    def loss_of(model: nn.Module, x: Tensor) -> Tensor:
        value: Tensor = model(x).square().mean()
        return value

    def train(*, fitted: bool) -> tuple[list[Tensor], int]:
        model = network()
        stepper = Stepper(model, torch.optim.AdamW(model.parameters(), lr=1e-2), Companions(), accumulate=accumulate)
        trying = Trying(stepper)
        fitting = Fitting(stepper, SetLimit(), Forward(model), weigh=None, why_whole="", report=lambda what: None)
        if fitted:
            trying.take = fitting.take
        torch.manual_seed(2)
        for _ in range(12):
            trying.second_form(loss_of, torch.randn(8, 6))
        return [*(t.clone() for t in model.state_dict().values()), torch.get_rng_state()], len(fitting.fit.points)

    plain, _ = train(fitted=False)
    watched, tried = train(fitted=True)
    assert tried > 1
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))


def test_a_loss_that_is_no_mean_is_never_split() -> None:
    model = network()
    stepper = Stepper(model, torch.optim.SGD(model.parameters(), lr=0.1), Companions())
    said: list[str] = []
    fitting = Fitting(stepper, SetLimit(), Forward(model), weigh=None, why_whole="", report=said.append)
    fitting.cap.turn(OWNER, Override("cap", 2.0))
    trying = Trying(stepper)
    trying.take = fitting.take
    trying.second_form(lambda model, x: model(x).square().sum(), torch.randn(8, 6))
    assert fitting.taken.pieces == 1
    assert any("mean over samples" in what for what in said)
