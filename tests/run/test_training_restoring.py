"""A restore goes back to the last good moment, and is taken back where it did not help: a run never loses by it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from premortem import Guard
from premortem.core.evidence import Record
from premortem.run.restoring import Lately
from premortem.run.training import GuardedTraining
from premortem.stages.train.checkpoint import Shelf

ONLY = ("DEF-1",)


def data() -> DataLoader[tuple[Tensor, ...]]:
    made = torch.Generator().manual_seed(1)
    x = torch.randn(512, 8, generator=made)
    y = torch.sin(x.sum(1, keepdim=True)) + 0.1 * torch.randn(512, 1, generator=made)
    return DataLoader(TensorDataset(x, y), 32, shuffle=True, generator=made)


class Run:
    """A small regression whose loss a fault may change at every step from ``onset`` on."""

    def __init__(self, folder: Path, fault: Callable[[Tensor], Tensor], onset: int = 150, save_every: int = 50) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=3e-3)
        self.records: list[Record] = []
        self.fault, self.onset = fault, onset
        self.guarded = Guard(entries=ONLY).training(
            self.model, self.optimizer, checkpoints=folder, save_every=save_every
        )

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        value = torch.nn.functional.mse_loss(model(batch[0]), batch[1])
        return value if self.guarded.ticks < self.onset else self.fault(value)

    def go(self, until: int, look: Callable[[GuardedTraining], None] = lambda run: None) -> Run:
        with self.guarded as run:
            run.driver.listen(self.records.append)
            loader = data()
            while run.ticks < until and not run.stopped:
                for batch in run.batches(loader):
                    run.step(self.loss, batch)
                    look(run)
                    if run.ticks >= until:
                        break
        return self

    def turned(self) -> list[str]:
        return [str(r.data["rung"]) for r in self.records if r.event == "intent" and r.data.get("verb") == "turn"]

    def told(self) -> list[str]:
        return [str(r.data["what"]) for r in self.records if r.event == "run"]


def weights(run: Run) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in run.model.state_dict().items()}


def test_restores_that_do_not_help_leave_the_weights_that_no_fault_ever_reached(tmp_path: Path) -> None:
    run = Run(tmp_path, lambda value: value * math.nan)
    seen: dict[int, dict[str, Tensor]] = {}
    run.go(600, lambda guarded: seen.setdefault(guarded.ticks, weights(run)))
    assert run.turned().count("restore the last good checkpoint") == 3
    assert run.turned()[-1] == "stop with the weights safe"
    assert run.guarded.step_number == run.onset
    assert all(torch.equal(value, seen[run.onset][name]) for name, value in weights(run).items())
    assert "the weights in memory are of step 150, the newest bundle is step-00000150" in run.guarded.stop_reason


def test_what_is_on_the_disk_after_a_restore_was_taken_back_is_what_the_next_run_goes_on_from(tmp_path: Path) -> None:
    run = Run(tmp_path, lambda value: value * math.nan).go(600)
    left = weights(run)
    again = Run(tmp_path, lambda value: value)
    with again.guarded:
        assert again.guarded.step_number == 150
        assert all(torch.equal(value, left[name]) for name, value in weights(again).items())


def test_a_shift_in_the_data_that_nothing_mends_ends_with_the_weights_of_before_the_restores(tmp_path: Path) -> None:
    run = Run(tmp_path, lambda value: value + 3.0).go(800)
    assert "restore the last good checkpoint" in run.turned()
    assert any(what.startswith("the restore did not help and was taken back") for what in run.told())
    assert run.guarded.stopped
    before = next(r.tick for r in run.records if r.data.get("rung") == "restore the last good checkpoint")
    assert run.guarded.step_number == before


def test_after_a_restore_that_helped_the_moment_before_it_is_let_go(tmp_path: Path) -> None:
    run = Run(tmp_path, lambda value: value)

    def break_weights(guarded: GuardedTraining) -> None:
        if guarded.ticks == 150:
            with torch.no_grad():
                for parameter in run.model.parameters():
                    parameter.mul_(60.0)

    run.go(500, break_weights)
    assert "restore the last good checkpoint" in run.turned()
    assert [r.data["verdict"] for r in run.records if r.event == "closed"] == ["recovered"]
    assert not any("taken back" in what for what in run.told())
    with Shelf(tmp_path) as shelf:
        assert not list(tmp_path.glob("*.protected-*"))
        assert shelf.find_good().bundle is not None


def test_weights_that_are_no_numbers_are_not_kept_for_taking_back(tmp_path: Path) -> None:
    run = Run(tmp_path, lambda value: value)

    def break_weights(guarded: GuardedTraining) -> None:
        if guarded.ticks == 160:
            with torch.no_grad():
                next(run.model.parameters()).fill_(math.nan)

    run.go(400, break_weights)
    assert any(what.startswith("the moment before the restore could not be kept") for what in run.told())
    assert all(torch.isfinite(p).all() for p in run.model.parameters())
    assert [r.data["verdict"] for r in run.records if r.event == "closed"] == ["recovered"]


def test_one_wild_batch_is_skipped_and_no_rung_is_climbed_for_it(tmp_path: Path) -> None:
    run = Run(tmp_path, lambda value: value, onset=0)
    run.fault = lambda value: value * 1e4 if run.guarded.ticks in (150, 180) else value
    run.go(300)
    assert run.turned() == []
    assert run.guarded.step_number == 298
    yellow = [r for r in run.records if r.event == "finding" and r.data["level"] == "YELLOW"]
    assert {r.data["watch"] for r in yellow} >= {"gradient spike", "loss spike"}


@pytest.mark.parametrize("save_every", [0, 1000])
def test_a_fast_loop_goes_back_a_few_dozen_steps_by_memory(tmp_path: Path, save_every: int) -> None:
    run = Run(tmp_path, lambda value: value + 3.0, save_every=save_every)
    run.guarded.keeping.moments.stepped(1e3)  # time enough for every moment, however slow this machine is
    run.go(400)
    restored = next(what for what in run.told() if what.startswith("restored to step"))
    assert restored.endswith("from memory")
    assert 90 <= int(restored.split()[3].rstrip(",")) <= 125


def heard(*losses: float) -> Lately:
    lately = Lately()
    for loss in losses:
        lately.hear(loss)
    return lately


def test_restored_weights_stay_only_where_they_do_clearly_better() -> None:
    high, low = heard(*[3.0, 3.1, 2.9] * 4), heard(*[2.0, 2.1, 1.9] * 4)
    assert low.is_clearly_below(high)
    assert not high.is_clearly_below(low)
    assert not heard(*[2.98, 3.08, 2.88] * 4).is_clearly_below(high)
    assert not heard(math.nan, math.nan).is_clearly_below(high)
    assert high.is_clearly_below(heard(1.0, 1.0, math.nan))
    assert not heard(math.nan).is_clearly_below(heard(math.nan))
