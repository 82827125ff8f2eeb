"""Confined cases of drills: the four arms in processes of their own, under a limit that really kills."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from premortem.core.drill import Bounds
from premortem.faults.fault import Fault
from premortem.faults.group import group_refusal
from premortem.faults.memory import Leak, MemoryLimit
from premortem.risks.case import Ticking, TrainingCase, WatchedCase
from premortem.run.arms import plain_arm
from premortem.run.guard import Guard
from premortem.run.ticking import watched_seed
from premortem.stages.train.trainable import Trainable

MIB = 1 << 20


@pytest.fixture
def grouped(tmp_path: Path) -> bool:
    """Whether groups can be made; where not, the arm says so in one line."""
    if why := group_refusal():
        assert plain_arm(CASE, 1, tmp_path, faulted=True).note == why
        return False
    return True


def linear(seed: int) -> Trainable:
    torch.manual_seed(seed)
    model, rows = nn.Linear(8, 1), torch.randn(64, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    return Trainable(
        model=model, optimizer=optimizer, scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0),
        loader=DataLoader(TensorDataset(rows), 8), loss=lambda m, batch: (m(batch[0]) - 1).square().mean(),
        outcome=lambda: float((model(rows) - 1).square().mean().detach()), num_steps=20, max_norm=1.0,
    )  # fmt: skip


def limited(run: Trainable, folder: Path) -> Fault:
    return MemoryLimit(256 * MIB)


CASE = TrainingCase(
    name="limited", build=linear, fault=limited, at=5, lasts=math.inf, bounds=Bounds(detect_within=5), confined=True
)


def test_a_confined_training_arm_is_the_same_as_one_here(grouped: bool, tmp_path: Path) -> None:
    if not grouped:
        return
    here = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        plain = TrainingCase(name="limited", build=linear, fault=limited, at=5, lasts=math.inf, bounds=CASE.bounds)
        assert plain_arm(CASE, 3, tmp_path, faulted=False).digest == plain_arm(plain, 3, tmp_path, faulted=False).digest
    finally:
        torch.set_num_threads(here)
    arm = plain_arm(CASE, 3, tmp_path, faulted=True)
    assert (arm.fault_observed, arm.fault_gone) == (True, True), arm.note
    assert math.isfinite(arm.outcome)


class Leaky:
    """Signals: what is held; nothing can be turned."""

    kind = "leaky"
    signals = ()
    controls: dict[str, object] = {}
    witnesses: dict[str, str] = {}
    conditions: dict[str, object] = {}

    def __init__(self) -> None:
        self.leak = Leak(16 * MIB)
        self.limit = MemoryLimit(128 * MIB)

    def advance(self, tick: int) -> list[float | None]:
        self.leak.leak()
        return [float(self.leak.held)]


class LimitedLeak(Leak):
    """Leaks under a limit that the kernel keeps."""

    def __init__(self, subject: Leaky) -> None:
        super().__init__(16 * MIB)
        subject.leak = self
        self._limit = subject.limit

    def _apply(self) -> None:
        super()._apply()
        self._limit.__enter__()

    def _undo(self) -> None:
        super()._undo()
        self._limit.remove()


def leaky(seed: int) -> Ticking:
    subject = Leaky()
    return Ticking(workload=subject, advance=subject.advance, outcome=lambda: float(seed), subject=subject)  # type: ignore[arg-type]


def leaking(ticking: Ticking) -> Fault:
    assert isinstance(ticking.subject, Leaky)
    return LimitedLeak(ticking.subject)


def test_a_watched_case_is_killed_alone(grouped: bool, tmp_path: Path) -> None:
    if not grouped:
        return
    case = WatchedCase(
        name="leaky", build=leaky, fault=leaking, at=2, lasts=math.inf, num_ticks=40, bounds=Bounds(detect_within=5),
        confined=True,
    )  # fmt: skip
    seed = watched_seed(case, 7, tmp_path, Guard())
    assert seed.baseline.outcome == seed.watched.outcome == 7.0
    assert seed.baseline.digest == seed.watched.digest
    for arm in (seed.unguarded, seed.guarded):
        assert math.isnan(arm.outcome)
        assert arm.note == "killed by the kernel for memory, exit 137"
        assert (arm.fault_observed, arm.fault_gone) == (True, True)
