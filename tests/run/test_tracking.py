"""A guarded run with a tracker: signals beside the user's own values, and a tracker that is away is an incident."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import premortem
from premortem import Guard
from premortem.core.errors import ConfigError
from premortem.faults.network import TcpProxy
from premortem.ledger.ledger import Filters, Ledger
from premortem.run.tracking import TrackerWatch
from premortem.stages.tracking.reader import Reader
from premortem.stages.tracking.workload import TrackerWorkload

REGISTER = "agent-forge"


def train(tracker: object, folder: Path, steps: int, register: str = REGISTER) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    guard = Guard(register, entries=("AF-I.1",) if register == REGISTER else ("DEF-1",), ledger=folder / "ledger.db")
    with guard.training(model, optimizer, tracker=tracker) as run:  # type: ignore[arg-type]
        for step in range(steps):
            loss = model(torch.ones(2, 4)).square().mean()
            run.step(loss)
            tracker.log({"mine": float(step)}, step)  # type: ignore[attr-defined]


def test_a_runs_signals_lie_beside_the_users_own(tmp_path: Path) -> None:
    tracker = premortem.tracking.open({"tensorboard": str(tmp_path / "tb")}, project="p", run="r", spool=tmp_path)
    with tracker:
        train(tracker, tmp_path, 20)
    records = [p.record for p in Reader(tracker.folder.spool).read(100)]
    mine = [r.v["mine"] for r in records if "mine" in r.v]
    losses = [r.v["premortem/loss"] for r in records if "premortem/loss" in r.v]
    assert mine == list(range(20))
    assert len(losses) == 20
    assert tracker.folder.status("tensorboard").done
    ledger = Ledger.open(tmp_path / "ledger.db")
    told = [row for row in ledger.records(Filters(events=("run",))) if row.run.endswith("(tracker)")]
    ledger.close()
    assert [row.record.data["what"] for row in told] == ["began", "ended"]


def test_a_register_that_watches_no_tracker_says_so(tmp_path: Path) -> None:
    place = {"tensorboard": str(tmp_path / "tb")}
    with premortem.tracking.open(place, project="p", run="r", spool=tmp_path) as tracker:
        train(tracker, tmp_path, 2, register="default")
    ledger = Ledger.open(tmp_path / "ledger.db")
    gaps = [str(row.record.data["what"]) for row in ledger.records(Filters(events=("unwatched",)))]
    ledger.close()
    assert any("watches no tracker" in gap for gap in gaps)


def test_a_tracker_that_never_answered_is_red_and_goes_offline(tmp_path: Path) -> None:
    dead = TcpProxy(1)
    with dead as proxy:
        address = f"http://127.0.0.1:{proxy.port}"
    tracker = premortem.tracking.open({"mlflow": address}, project="p", run="r", spool=tmp_path, close_s=0.5)
    now = [1000.0]
    guard = Guard(REGISTER, entries=("AF-I.1",))
    ledger = Ledger.open(tmp_path / "ledger.db", run="r (tracker)")
    watch = TrackerWatch(guard, tracker, ledger)
    watch.workload = watch.driver.workload = TrackerWorkload(tracker, clock=lambda: now[0])
    for _ in range(30):
        tracker.log({"loss": 1.0}, step=1)
        watch.look()
        now[0] += 10.0
        if tracker.mode == "offline":
            break
    assert tracker.mode == "offline"
    watch.stop()
    with pytest.warns(RuntimeWarning, match="premortem sync"):
        assert tracker.close() > 0


def test_a_tracker_is_no_other_thing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown backend"):
        premortem.tracking.open("comet", project="p", spool=tmp_path)
