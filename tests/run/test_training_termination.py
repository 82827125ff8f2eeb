"""SIGTERM ends a run between two steps: a bundle is saved, the exit code is 143, and a restart goes on there."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from premortem import Guard
from premortem.stages.train.checkpoint import Shelf


@pytest.fixture(autouse=True)
def nobody_else_listens() -> Iterator[None]:
    """As in a fresh process, whatever ran before in this one."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


def train(folder: Path, *, asks: bool, until: int = 30, term_at: int = 10) -> int:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    done = 0
    with Guard().training(model, torch.optim.Adam(model.parameters()), checkpoints=folder, save_every=1000) as run:
        while run.step_number < until:
            if run.step_number == term_at:
                os.kill(os.getpid(), signal.SIGTERM)
            run.step((model(torch.ones(2, 3)) - 1).square().mean())
            done = run.step_number
            if asks and run.stopped:
                assert run.stop_reason == "SIGTERM"
                break
    return done


@pytest.mark.parametrize("asks", [True, False])
def test_sigterm_saves_a_bundle_and_ends_with_143_also_where_the_loop_does_not_ask(asks: bool, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ending:
        train(tmp_path, asks=asks)
    assert ending.value.code == 143
    newest = Shelf(tmp_path, own=False).find_loadable().bundle
    assert newest is not None
    assert newest.step == 11
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert train(tmp_path, asks=asks, term_at=-1) == 30


def test_a_handler_of_ones_own_is_left_alone(tmp_path: Path) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        assert train(tmp_path, asks=True) == 30
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]
