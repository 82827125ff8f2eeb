"""The arms of a drill: what each run is given, what is heard of it, and what the rule then says."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from premortem.core.drill import Bounds, ProofVerdict, judge
from premortem.faults.fault import Fault
from premortem.faults.numeric import PoisonedOutput
from premortem.risks.case import TrainingCase
from premortem.run.arms import Arms
from premortem.run.discover import find_risk
from premortem.run.drill import _cases, find_entries
from premortem.stages.train.trainable import Trainable


def regression(seed: int) -> Trainable:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    rows = torch.randn(256, 8)
    wanted = rows.sum(1, keepdim=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    return Trainable(
        model=model, optimizer=optimizer, scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0),
        loader=DataLoader(TensorDataset(rows, wanted), 32),
        loss=lambda m, batch: (m(batch[0]) - batch[1]).square().mean(),
        outcome=lambda: float((model(rows) - wanted).square().mean().detach()), num_steps=160, max_norm=1.0,
    )  # fmt: skip


def poisoned(run: Trainable, folder: Path) -> Fault:
    return PoisonedOutput(run.model.get_submodule("0"), range(3), math.nan)


CASE = TrainingCase(
    name="three poisoned batches", build=regression, fault=poisoned, at=100, lasts=3, bounds=Bounds(detect_within=4)
)


@pytest.fixture
def arms(tmp_path: Path) -> Arms:
    torch.set_num_threads(1)
    return Arms("agent-forge", "AF-1.4", 0, tmp_path)


def test_nan_ruins_the_plain_run_and_not_the_guarded_one(arms: Arms) -> None:
    seed = arms.run(CASE)
    assert seed.baseline.digest == seed.watched.digest != ""
    assert math.isnan(seed.unguarded.outcome)
    assert seed.guarded.outcome == pytest.approx(seed.baseline.outcome, rel=0.05)
    assert (seed.guarded.fault_observed, seed.guarded.fault_gone) == (True, True)


def test_a_fault_that_never_comes_earns_no_credit(arms: Arms) -> None:
    never = replace(CASE, fault=lambda run, folder: PoisonedOutput(run.model.get_submodule("0"), (), math.nan))
    judgement = judge([arms.run(never)], CASE.bounds)
    assert judgement.verdict is ProofVerdict.NOT_PROVEN
    assert any("the fault was never there" in why for why in judgement.failures)


def test_a_watched_workload_is_run_without_and_with_guard_and_fault(tmp_path: Path) -> None:
    ((register, entry),) = find_entries(["SUP-2"], None)
    (case,) = _cases(find_risk(entry.risks[0].risk, entry.id).drill_module(), entry.id)
    judgement = judge([Arms(register, entry.id, 0, tmp_path).run(case)], case.bounds)
    assert (judgement.verdict, judgement.failures) == (ProofVerdict.PROVEN, ())
