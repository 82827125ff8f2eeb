"""What the owner of a run relies on when the device fails in the middle of a step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import premortem
from premortem.core.errors import ConfigError, StageError
from premortem.faults.device import DeviceBusy, DeviceLost
from premortem.ledger.ledger import Ledger
from premortem.run.training import GuardedTraining

DATA = torch.randn(64, 4, generator=torch.Generator().manual_seed(1))


class Regression(nn.Module):
    """With dropout, so that a step that is taken again must draw the same numbers, and a table no checkpoint holds."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 1))
        self.register_buffer("table", torch.full((1,), 2.0), persistent=False)

    def forward(self, x_BD: Tensor) -> Tensor:
        return self.layers(x_BD) * self.table


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    return (model(batch) - batch.sum(1, keepdim=True)).square().mean()


def train(folder: Path, faults: dict[int, object], steps: int = 120, register: str = "agent-forge", form: int = 2):
    torch.manual_seed(0)
    model = Regression()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    guard = premortem.Guard(register, entries=("AF-I.3",) if register == "agent-forge" else ())
    made = guard.training(model, optimizer, checkpoints=folder, save_every=5, probation=10, device_poll_s=0.0)
    losses = []
    with made as run:
        while run.step_number < steps and not run.stopped:
            fault = faults.pop(run.step_number, None)
            fault = fault and fault(model, optimizer)
            with fault or torch.enable_grad():
                stepped = run.step(loss, DATA) if form == 2 else run.step(loss(model, DATA))
            losses.append(stepped.loss)
    return made, model, losses


def lost(model: nn.Module, optimizer: torch.optim.Optimizer) -> DeviceLost:
    return DeviceLost(lambda: [*model.parameters(), *model.buffers()])


def records(run: GuardedTraining, folder: Path, event: str) -> list[dict[str, object]]:
    ledger = Ledger.open(folder / "ledger.db")
    try:
        return [row.record.data for row in ledger.records() if row.record.event == event]
    finally:
        ledger.close()


def test_a_busy_device_costs_no_number(tmp_path: Path) -> None:
    """The step is taken again as if nothing had been: same losses, same weights, dropout included."""
    _, plain, losses = train(tmp_path / "a", {})
    _, waited, again = train(tmp_path / "b", {60: lambda m, o: DeviceBusy(refusals=7)})
    assert losses == again
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), waited.parameters(), strict=True))


def test_lost_memory_comes_back_from_the_newest_bundle(tmp_path: Path) -> None:
    run, model, losses = train(tmp_path, {63: lost})
    assert [r["rung"] for r in records(run, tmp_path, "verified") if r["verdict"] == "helped"] == [
        "resume from the checkpoint"
    ]
    assert losses[-1] < 0.5 * losses[0]
    assert model.table.item() == 2.0, "a table that no checkpoint holds is there again"
    assert run.step_number == 120


def moments_lost(model: nn.Module, optimizer: torch.optim.Optimizer) -> DeviceLost:
    return DeviceLost(lambda: [v for state in optimizer.state.values() for v in state.values() if v.ndim])


def test_a_torn_update_is_never_trained_on_and_blames_no_batch(tmp_path: Path) -> None:
    run, _, _ = train(tmp_path, {63: moments_lost}, register="default")
    found = {(r["watch"], r["level"]) for r in records(run, tmp_path, "finding") if r["level"] in ("RED", "CRITICAL")}
    assert found == {("device error", "RED"), ("torn update", "CRITICAL")}
    assert run.step_number == 120
    assert not run.draws.skip


def test_without_a_register_that_watches_the_device_the_exception_goes_on(tmp_path: Path) -> None:
    with pytest.raises(torch.AcceleratorError, match="launch failure"):
        train(tmp_path, {20: lost}, register="hrm")


def test_the_first_form_cannot_take_a_forward_pass_again(tmp_path: Path) -> None:
    with pytest.raises(torch.AcceleratorError):
        train(tmp_path, {20: lost}, form=1)


def test_lost_before_anything_was_saved_ends_in_one_line_and_in_bounded_time(tmp_path: Path) -> None:
    run, _, losses = train(tmp_path, {2: lost})
    assert run.stopped
    assert "device is lost" in run.stop_reason
    assert len(losses) == 3


def test_a_poll_that_is_no_number_of_seconds_is_the_users_mistake(tmp_path: Path) -> None:
    model = Regression()
    with pytest.raises(ConfigError, match="device_poll_s"):
        premortem.Guard().training(model, torch.optim.SGD(model.parameters()), device_poll_s=-1.0)


def test_no_bundle_is_one_line(tmp_path: Path) -> None:
    model = Regression()
    guarded = premortem.Guard().training(model, torch.optim.SGD(model.parameters()), checkpoints=tmp_path)
    with guarded as run, pytest.raises(StageError, match="no bundle that verifies"):
        run.keeping.newest()
