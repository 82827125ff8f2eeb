"""What a person at the console is told of a run: how it began, what opened, and what was left open at its end."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from premortem import Guard


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What the project's logger says; the command line, which shows the same itself, turns it off for its process."""
    said: list[str] = []
    logger, ear = logging.getLogger("premortem"), logging.Handler(logging.WARNING)
    ear.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    monkeypatch.setattr(logger, "disabled", False)
    logger.addHandler(ear)
    yield said
    logger.removeHandler(ear)


def train(folder: Path, *, steps: int, poison: float = 0.0) -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Guard().training(model, optimizer, checkpoints=folder, save_every=2) as run:
        for _ in range(steps):
            run.step((model(torch.ones(4, 2) + poison) - 1.0).square().mean())


def test_a_run_that_ends_with_an_open_incident_says_so(tmp_path: Path, told: list[str]) -> None:
    train(tmp_path, steps=20, poison=float("nan"))
    assert "incident: CRITICAL not finite" in told[0]
    assert "DEF-1 #1: still open (" in "\n".join(told[1:])
    assert all(" when the run ended; premortem incidents show tells more" in line for line in told if "open" in line)


def test_a_run_that_goes_on_says_from_where_and_a_healthy_end_says_nothing(tmp_path: Path, told: list[str]) -> None:
    train(tmp_path, steps=4)
    assert told == []
    train(tmp_path, steps=2)
    assert told == [f"the run goes on from {tmp_path / 'step-00000004'}"]
