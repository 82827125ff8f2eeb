"""A run that was interrupted goes on as if it had not been; and so does its guard."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, Dataset, RandomSampler

from premortem import Guard
from premortem.core.action import Override, Owner
from premortem.core.evidence import Record
from premortem.faults.numeric import LearningRateJump
from premortem.run.training import GuardedTraining
from premortem.stages.train.ema import WeightEMA
from premortem.stages.train.grokfast import GrokfastEMA
from premortem.stages.train.guarded.requests import digest

STEPS = 60


class InterruptedHereError(Exception):
    """Whatever ends a process."""


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """Augments at random in the main process, from torch's and Python's streams; row ``bad`` is not finite."""

    def __init__(self, bad: int = -1, *, noisy: bool = True, rows: int = 72) -> None:
        made = torch.Generator().manual_seed(4)
        self.x = torch.randn(rows, 5, generator=made)
        self.y = torch.sin(self.x.sum(1, keepdim=True))
        self.bad, self.noisy = bad, noisy

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        noise = 0.05 * torch.randn(5) + 0.01 * random.random() if self.noisy else 0.0
        return self.x[i] + noise, self.y[i] if i != self.bad else torch.full((1,), math.nan)


class Run:
    """One process of a run: everything is built anew, from another seed when it is a restart."""

    def __init__(self, folder: Path, *, seed: int = 0, bad: int = -1, noisy: bool = True, **options: Any) -> None:
        rows = options.pop("rows", 72)
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        drop = nn.Dropout(0.2) if noisy else nn.Identity()
        self.model = nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.Tanh(), drop, nn.Linear(16, 1))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.scheduler = OneCycleLR(self.optimizer, 5e-3, total_steps=STEPS + 5)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=16.0, growth_interval=7)
        self.ema = WeightEMA(self.model, 0.9)
        self.filter = GrokfastEMA(0.9, 0.3)
        data = Noisy(bad, noisy=noisy, rows=rows)
        own = torch.Generator().manual_seed(seed)
        self.loader = DataLoader(data, 6, sampler=RandomSampler(data, generator=own))
        self.losses: dict[int, float] = {}
        self.records: list[Record] = []
        self.steps = STEPS
        self.guarded = Guard(entries=("DEF-1", "DEF-2", "DEF-4")).training(
            self.model,
            self.optimizer,
            scheduler=self.scheduler,
            scaler=self.scaler,
            ema=self.ema,
            gradient_filter=self.filter,
            checkpoints=folder,
            **{"max_norm": 1.0, "save_every": 7, "probation": 5} | options,
        )

    def go(self, until: int | None = None, at: Callable[[GuardedTraining], None] = lambda run: None) -> Run:
        """Train to the end, or raise in step ``until``."""
        with self.guarded as run:
            run.driver.listen(self.records.append)
            while run.step_number < self.steps and not run.stopped:
                for batch in run.batches(self.loader):
                    at(run)
                    if run.ticks == until:
                        raise InterruptedHereError
                    stepped = run.step(loss, batch)
                    if stepped is not None:
                        self.losses[run.ticks] = stepped.loss
                    if run.step_number == self.steps:
                        break
            self.detectors = run.engine.observer.state()
        return self

    @property
    def end(self) -> list[Any]:
        things = (self.model, self.optimizer, self.scheduler, self.scaler, self.ema, self.filter)
        return [*(plain(t.state_dict()) for t in things), torch.get_rng_state().tolist(), random.getstate()]


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.mse_loss(model(batch[0]), batch[1])


def plain(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: plain(value) for key, value in tree.items() if not callable(value)}
    if isinstance(tree, list | tuple):
        return [plain(part) for part in tree]
    return digest({"": tree}) if isinstance(tree, Tensor) else repr(tree)


def interrupted(folder: Path, points: list[int], **how: Any) -> tuple[Run, dict[int, float]]:
    """A run with restarts; each restart is seeded otherwise, so that only what was saved can make it the same."""
    losses: dict[int, float] = {}
    for number, point in enumerate(points):
        run = Run(folder, seed=number * 17, **how)
        with pytest.raises(InterruptedHereError):
            run.go(point)
        losses |= run.losses
    last = Run(folder, seed=99, **how).go()
    return last, losses | last.losses


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_an_interrupted_run_ends_bit_for_bit_as_the_whole_one(seed: int, accumulate: int, tmp_path: Path) -> None:
    whole = Run(tmp_path / "whole", accumulate=accumulate).go()
    points = sorted(random.Random(seed).sample(range(8, STEPS - 1), 3))
    last, losses = interrupted(tmp_path / "parts", points, accumulate=accumulate)
    assert losses == whole.losses
    assert last.end == whole.end
    assert last.detectors == whole.detectors


def test_an_interruption_before_the_first_bundle_begins_anew(tmp_path: Path) -> None:
    with pytest.raises(InterruptedHereError):
        Run(tmp_path).go(3)
    again = Run(tmp_path).go()
    assert again.end == Run(tmp_path / "whole").go().end


def test_a_batch_that_was_skipped_is_never_drawn_again_and_the_weights_are_the_same(tmp_path: Path) -> None:
    rows = 6 * (STEPS + 20)
    in_batch_30 = list(RandomSampler(range(rows), generator=torch.Generator().manual_seed(0)))[30 * 6]
    how: dict[str, Any] = {"bad": in_batch_30, "noisy": False, "rows": rows}
    whole = Run(tmp_path / "whole", **how).go()
    assert [tick for tick, value in whole.losses.items() if math.isnan(value)] == [31]
    first = Run(tmp_path / "parts", **how)
    # ended after the skip and before the next bundle, at 35: the bad batch would come again
    with pytest.raises(InterruptedHereError):
        first.go(33)
    again = Run(tmp_path / "parts", seed=5, **how).go()
    assert again.guarded.draws.skip == {(0, 30)}
    assert min(again.losses) == 29
    assert not any(map(math.isnan, again.losses.values()))
    assert plain(again.model.state_dict()) == plain(whole.model.state_dict())
    assert plain(again.ema.state_dict()) == plain(whole.ema.state_dict())


def test_a_loader_of_the_next_epoch_goes_on_with_the_position(tmp_path: Path) -> None:
    run = Run(tmp_path, noisy=False)
    with run.guarded as guarded:
        for epoch in range(3):
            loader = DataLoader(Noisy(noisy=False), 6, shuffle=True)
            for _, batch in zip(range(4), guarded.batches(loader), strict=False):
                guarded.step(loss, batch)
            assert guarded.epoch == epoch


class Diverging:
    """A run whose learning rate jumps, caught at its open incident."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.run = Run(folder, seed=seed, noisy=False)
        self.run.steps = 600
        self.fault = LearningRateJump(self.run.optimizer, 3000.0)

    def until_a_rung_stands(self) -> GuardedTraining:
        def at(run: GuardedTraining) -> None:
            if run.ticks == 200 and not self.fault.is_on:
                self.fault.__enter__()
            incident = run.engine.climbing
            if incident is not None and any(s.rung.control == "learning_rate" for s in incident.standing):
                raise InterruptedHereError

        with pytest.raises(InterruptedHereError):
            self.run.go(at=at)
        self.fault.remove()
        return self.run.guarded


def _scheduler_free(run: Run) -> None:
    run.guarded.stepper.with_.scheduler = None


def test_a_restart_keeps_the_open_incident_its_tries_and_the_factor_in_force(tmp_path: Path) -> None:
    before = Diverging(tmp_path)
    _scheduler_free(before.run)
    guarded = before.until_a_rung_stands()
    incident = guarded.engine.climbing
    assert incident is not None
    factor = guarded.stepper.lr_factor.value
    assert factor < 1.0
    again = Run(tmp_path, seed=8, noisy=False)
    _scheduler_free(again)
    with again.guarded as run:
        remembered = run.engine.climbing
        assert remembered is not None
        assert remembered.number == incident.number
        assert remembered.tried.items() >= incident.tried.items()
        assert {s.rung.name for s in remembered.standing} >= {s.rung.name for s in incident.standing}
        assert run.stepper.lr_factor.value == pytest.approx(run.engine.site.stacks["learning_rate"].effective)
        assert run.stepper.lr_factor.value <= factor
        assert run.ledger.unsettled(run.driver.run) == []


def test_a_latch_survives_a_restart(tmp_path: Path) -> None:
    first = Run(tmp_path)
    with first.guarded as run:
        run.engine.latched.load("DEF-1", set(run.engine.observer.of_entry("DEF-1")))
    with Run(tmp_path).guarded as run:
        assert "DEF-1" in run.engine.latched.state()


def test_the_cap_on_single_gradients_survives_a_restart(tmp_path: Path) -> None:
    whole = Run(tmp_path).go()
    gate = whole.guarded.stepper.gate
    assert math.isfinite(gate)
    with Run(tmp_path).guarded as run:
        assert run.stepper.gate == gate


def test_a_restore_goes_back_in_weights_and_abandons_later_bundles_but_not_in_data(tmp_path: Path) -> None:
    run = Run(tmp_path, noisy=False)
    run.steps = 40
    positions = []

    def at(guarded: GuardedTraining) -> None:
        if guarded.ticks == 38 and not positions:
            good = guarded.keeping.shelf.last_good()
            assert good is not None
            assert good.step < guarded.step_number
            position = guarded.draws.position
            assert position is not None
            positions.append((position.epoch, position.index, good.step))
            guarded.workload.controls["weights"].turn(Owner(1, "restore"), Override("choose", "last good"))
            assert guarded.workload.controls["weights"].read() == "last good"
            assert guarded.step_number == good.step
            assert (position.epoch, position.index) == positions[0][:2]
            newest = guarded.keeping.shelf.latest()
            assert newest is not None
            assert newest.step == good.step

    run.go(at=at)
    assert positions
    assert run.guarded.step_number == 40
    assert run.guarded.ticks > 40


def test_without_a_folder_nothing_of_an_earlier_run_is_remembered(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)

    def train() -> tuple[int, list[Record]]:
        torch.manual_seed(0)
        model = nn.Linear(2, 1)
        records: list[Record] = []
        with Guard().training(model, torch.optim.SGD(model.parameters(), lr=0.1)) as run:
            run.driver.listen(records.append)
            for step in range(40):
                run.step((model(torch.ones(3, 2)) * (math.nan if step == 30 else 1.0)).square().mean())
            return len(run.engine.incidents), records

    first, _ = train()
    second, _ = train()
    assert first == second
