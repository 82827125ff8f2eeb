"""What is read from the ledger is what was written, and what people ask for there is done."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch

from premortem.core.evidence import Event, Record
from premortem.ledger.ledger import Ledger
from premortem.run.evidence import honour, incidents, open_requests, request, runs
from premortem.run.guard import Guard
from premortem.run.words import in_words


@pytest.fixture
def ledger(tmp_path: Path):
    opened = Ledger.open(tmp_path / "ledger.db", run="r1")
    yield opened
    opened.close()


def write(ledger: Ledger, *records: tuple[Event, int | None, int, dict]) -> None:
    for event, incident, tick, data in records:
        ledger.append(Record(event, "DEF-1", incident, tick, 0.0, data))


OPENED = ("opened", 1, 10, {"level": "RED", "because": "loss"})
TURN = ("intent", 1, 10, {"verb": "turn", "rung": "cut", "control": "learning_rate"})
READ = ("intent", 1, 10, {"verb": "read", "rung": "cut"})


def test_an_incident_is_read_from_its_first_finding_to_its_verdict(ledger) -> None:
    write(
        ledger, OPENED, TURN, READ,
        ("verified", 1, 20, {"rung": "cut", "verdict": "failed", "why": "late"}),
        ("intent", 1, 20, {"verb": "turn", "rung": "restore"}),
        ("verified", 1, 30, {"rung": "restore", "verdict": "helped", "why": ""}),
        ("relapse", 1, 35, {"why": "again"}),
        ("recovered", 1, 60, {"after_rung": "restore"}),
        ("closed", 1, 70, {"verdict": "recovered", "after_rung": "restore", "standing": []}),
    )  # fmt: skip
    (incident,) = incidents(ledger)
    assert (incident.verdict, incident.after_rung, incident.ticks, incident.relapses) == ("recovered", "restore", 50, 1)
    assert [(r.rung, r.verdict) for r in incident.rungs] == [("cut", "failed"), ("restore", "helped")]
    assert [line.tick for line in incident.timeline] == sorted(line.tick for line in incident.timeline)
    assert all(len(line.hash) == 64 for line in incident.timeline)


def test_an_incident_without_a_verdict_is_open(ledger) -> None:
    write(ledger, OPENED, TURN)
    (incident,) = incidents(ledger)
    assert (incident.verdict, incident.ticks, incident.rungs[0].verdict) == ("open", None, "")


def test_a_hand_over_says_why(ledger) -> None:
    write(ledger, OPENED, ("handed_over", 1, 12, {"why": "the ladder is spent", "standing": []}))
    (incident,) = incidents(ledger)
    assert (incident.verdict, incident.why) == ("handed over", "the ladder is spent")


def test_incidents_of_several_runs_and_restarts_have_numbers_of_their_own(tmp_path: Path) -> None:
    for run in ("r1", "r2", "r1"):
        opened = Ledger.open(tmp_path / "ledger.db", run=run)
        write(opened, ("run", None, 0, {"what": "began"}), OPENED)
        opened.close()
    opened = Ledger.open(tmp_path / "ledger.db")
    try:
        assert [(i.number, i.run, i.own) for i in incidents(opened)] == [(1, "r1", 1), (2, "r2", 1), (3, "r1", 1)]
        assert [(v.run, len(v.incidents)) for v in runs(opened)] == [("r1", 2), ("r2", 1)]
    finally:
        opened.close()


def test_a_run_says_what_was_not_watched_once(ledger) -> None:
    gap = ("unwatched", None, 0, {"what": "no signal 'x'"})
    write(ledger, ("run", None, 0, {"what": "began"}), gap, gap, ("good", None, 9, {"saved_at": 5}),
          ("run", None, 99, {"what": "ended", "steps": 90, "why": ""}))  # fmt: skip
    (view,) = runs(ledger)
    assert (view.unwatched, view.steps, view.last_good) == (["no signal 'x'"], 90, 5)


@pytest.mark.parametrize("event", get_args(Event))
def test_every_event_has_words_even_with_nothing_in_it(event) -> None:
    assert isinstance(in_words(Record(event, "", None, 0, 0.0, {})), str)


# --- what people ask for -------------------------------------------------------------------------


def _training(folder: Path):
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 1)
    return Guard().training(model, torch.optim.SGD(model.parameters(), lr=0.1), checkpoints=folder / "ckpt")


def _ask(folder: Path, event, entry: str) -> None:
    """From another process's point of view: a ledger of its own, under the run's name."""
    asking = Ledger.open(folder / "ckpt" / "ledger.db", run=str((folder / "ckpt").resolve()))
    request(asking, event, entry, "maria")
    asking.close()


def test_a_latch_released_by_a_person_is_open_on_resume_and_done_once(tmp_path: Path) -> None:
    with _training(tmp_path) as run:
        run.engine.latched.load("DEF-1", {0})
    _ask(tmp_path, "acknowledged", "DEF-1")
    with _training(tmp_path) as run:
        honour(run)
        assert "DEF-1" not in run.engine.latched
        assert open_requests(run.ledger, run.driver.run) == []
    with _training(tmp_path) as run:
        assert "DEF-1" not in run.engine.latched


def test_a_new_normal_forgets_bands_and_latches_of_a_running_guard(tmp_path: Path) -> None:
    with _training(tmp_path) as run:
        run.engine.latched.load("DEF-1", {0})
        _ask(tmp_path, "rebaselined", "")
        honour(run)
        assert not run.engine.latched
        assert run.engine.baseline.bands == {}
        events = [row.record.event for row in run.ledger.records()]
        assert events.count("rebaselined") == 2  # asked for, and done


def test_a_request_for_another_run_is_not_ours(tmp_path: Path) -> None:
    with _training(tmp_path) as run:
        run.engine.latched.load("DEF-1", {0})
        asking = Ledger.open(tmp_path / "ckpt" / "ledger.db", run="another")
        request(asking, "acknowledged", "DEF-1", "maria")
        asking.close()
        honour(run)
        assert "DEF-1" in run.engine.latched
