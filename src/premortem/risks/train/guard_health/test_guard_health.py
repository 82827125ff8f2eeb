"""The guard itself is the fault: endless skips and frozen weights are seen, never taken for calm."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import nn

from premortem import Guard
from premortem.core.evidence import Record


def run_with(folder: Path, lr: float, target: float, steps: int) -> tuple[list[Record], str]:
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    guard = Guard(entries=("DEF-4",)).training(
        model, torch.optim.SGD(model.parameters(), lr=lr), checkpoints=folder, save_every=10
    )
    records: list[Record] = []
    with guard as run:
        run.driver.listen(records.append)
        for _ in range(steps):
            if run.stopped:
                break
            x = torch.randn(16, 4)
            run.step((model(x) - target).square().mean())
    return records, run.stop_reason


def opened(records: list[Record]) -> list[str]:
    return [str(r.data["because"]) for r in records if r.event == "opened"]


def test_skipping_for_ever_is_an_incident_and_ends_in_a_stop(tmp_path: Path) -> None:
    records, why = run_with(tmp_path, 0.01, math.nan, 200)
    assert any("endless skipping" in text for text in opened(records))
    assert "nothing is learnt" in why


def test_applied_steps_that_move_nothing_are_an_incident(tmp_path: Path) -> None:
    records, _ = run_with(tmp_path, 0.0, 1.0, 120)
    assert any("frozen" in text for text in opened(records))


def test_a_run_that_learns_raises_nothing(tmp_path: Path) -> None:
    records, why = run_with(tmp_path, 0.01, 1.0, 200)
    assert opened(records) == []
    assert why == ""
