"""Training diverges: seen, answered by the rung that can mend it, and recovered, in a real small training."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from premortem import Guard
from premortem.core.evidence import Record
from premortem.faults.numeric import LearningRateJump, PoisonedGradient
from premortem.risks.train.divergence.risk import RISK, Params

ONLY = ("DEF-1",)


def data() -> DataLoader[tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(512, 8, generator=generator)
    y = torch.sin(x.sum(1, keepdim=True)) + 0.1 * torch.randn(512, 1, generator=generator)
    return DataLoader(TensorDataset(x, y), 32, shuffle=True, generator=generator)


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return torch.nn.functional.mse_loss(model(batch[0]), batch[1])


class Run:
    """A small regression under guard, whose records are kept."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=3e-3)
        self.records: list[Record] = []
        self.guarded = Guard(entries=ONLY).training(
            self.model, self.optimizer, checkpoints=folder, save_every=20, max_norm=1.0
        )

    def steps(self, until: int) -> Iterator[int]:
        loader = data()
        self.guarded.driver.listen(self.records.append)
        while self.guarded.ticks < until and not self.guarded.stopped:
            for batch in self.guarded.batches(loader):
                if self.guarded.ticks >= until:
                    return
                yield self.guarded.ticks
                self.guarded.step(loss, batch)

    def turned(self) -> list[str]:
        return [str(r.data["rung"]) for r in self.records if r.event == "intent" and r.data.get("verb") == "turn"]

    def events(self) -> list[str]:
        return [r.event for r in self.records]


def test_a_healthy_run_raises_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with run.guarded:
        for _ in run.steps(400):
            pass
    assert "opened" not in run.events()
    assert "good" in run.events()


def test_one_nan_in_a_gradient_is_skipped_and_recovered_from(tmp_path: Path) -> None:
    run = Run(tmp_path)
    fault = PoisonedGradient(run.model[0].weight, range(150, 151), math.nan)
    with run.guarded, fault:
        for _ in run.steps(260):
            pass
    assert fault.observed().holds
    assert run.turned() == ["skip the offending batch"]
    assert "recovered" in run.events()
    assert all(torch.isfinite(p).all() for p in run.model.parameters())


def test_a_learning_rate_a_thousand_times_too_high_is_cut_and_the_weights_come_back(tmp_path: Path) -> None:
    run = Run(tmp_path)
    fault = LearningRateJump(run.optimizer, 1000.0)
    with run.guarded:
        for tick in run.steps(700):
            if tick == 200:
                fault.__enter__()
            elif "recovered" in run.events() and fault.is_on:
                fault.remove()
        fault.remove()
        good = run.guarded.keeping.shelf.last_good()
    assert "cut the learning rate" in run.turned() or "restore the last good checkpoint" in run.turned()
    assert "recovered" in run.events()
    assert good is not None


@pytest.mark.parametrize(
    ("symptom", "first"),
    [("not finite", "skip the offending batch"), ("divergence", "warm up"),
     ("broken weights", "restore the last good checkpoint")],
)  # fmt: skip
def test_a_symptom_is_answered_by_a_rung_that_can_mend_it(symptom: str, first: str) -> None:
    rungs = RISK.rungs(Params())
    assert next(rung.name for rung in rungs if rung.applies_to(frozenset({symptom}))) == first
