"""Training converges slowly: recorded without a curve, an incident only beside a healthy run's curve."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from premortem import Guard
from premortem.core.errors import ConfigError
from premortem.core.evidence import Record


def train(lr: float, *, curve: Path | None = None, keep: Path | None = None) -> list[Record]:
    torch.manual_seed(0)
    model = nn.Linear(16, 1)
    params = (
        {"train/slow-convergence": {"baseline_curve": str(curve), "pace_window": 40, "pace_memory": 10}}
        if curve
        else {}
    )
    guard = Guard(entries=("DEF-2",), params=params, ledger=_ledger(keep or curve))
    records: list[Record] = []
    target = torch.randn(16, 1)
    with guard.training(model, torch.optim.SGD(model.parameters(), lr=lr)) as run:
        run.driver.listen(records.append)
        for _ in range(400):
            x = torch.randn(64, 16)
            run.step((model(x) - x @ target).square().mean() + 0.05)
        if keep is not None:
            run.keep_curve(keep)
    return records


def _ledger(beside: Path | None) -> Path:
    assert beside is not None
    return beside.parent / "ledger.db"


def events(records: list[Record]) -> set[str]:
    return {r.event for r in records}


def test_a_flat_loss_alone_is_only_recorded(tmp_path: Path) -> None:
    records = train(1e-7, keep=tmp_path / "curve.json")
    assert "finding" in events(records)
    assert "opened" not in events(records)


def test_slower_than_a_healthy_run_is_an_incident_answered_by_the_learning_rate(tmp_path: Path) -> None:
    curve = tmp_path / "curve.json"
    assert "opened" not in events(train(0.02, keep=curve))
    records = train(2e-4, curve=curve)
    turned = [r.data["rung"] for r in records if r.event == "intent" and r.data.get("verb") == "turn"]
    assert turned[0] == "raise the learning rate"


def test_the_healthy_run_itself_stays_on_its_curve(tmp_path: Path) -> None:
    curve = tmp_path / "curve.json"
    train(0.02, keep=curve)
    assert "opened" not in events(train(0.02, curve=curve))


def test_a_curve_that_is_none_is_refused_in_one_line(tmp_path: Path) -> None:
    bad = tmp_path / "curve.json"
    bad.write_text("{}")
    with pytest.raises(ConfigError, match="expected a file written by"):
        train(0.02, curve=bad)
