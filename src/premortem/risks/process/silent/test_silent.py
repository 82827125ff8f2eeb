"""A command that does nothing: woken, started again, or left alone where nobody said how long is too long."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from premortem.core.evidence import Record
from premortem.ledger.ledger import Ledger
from premortem.run.supervise.loop import Ground, Supervisor
from premortem.run.supervise.options import Options
from premortem.run.supervise.summary import Summary

STOPS = """
import os, signal
if not os.path.exists("once"):
    open("once", "w").close()
    os.kill(os.getpid(), signal.SIGSTOP)
print("went on")
"""
HANGS_ONCE = """
import os, threading
lock = threading.Lock(); lock.acquire()
if not os.path.exists("once"):
    open("once", "w").close()
    lock.acquire()
"""
HANGS = "import threading; lock = threading.Lock(); lock.acquire(); lock.acquire()"
WORKS = "import time\nuntil = time.monotonic() + 1.5\nwhile time.monotonic() < until: pass"
BEATS_NOT = "import time\nuntil = time.monotonic() + 60\nwhile time.monotonic() < until: pass"


def supervised(folder: Path, code: str, **options: object) -> tuple[Summary, list[str]]:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    rungs: list[str] = []

    def watch(record: Record) -> None:
        if record.event == "intent" and record.data.get("verb") == "turn":
            rungs.append(str(record.data["rung"]))

    ledger = Ledger.open(folder / "ledger.db")
    try:
        ground = Ground(
            ledger=ledger, place=folder / "ledger.db", say=lambda text: None, stdout=nowhere, stderr=nowhere
        )
        chosen = Options(**{"every_s": 0.05, "backoff_s": 0.05, "grace_s": 1.0, **options})  # type: ignore[arg-type]
        return Supervisor((sys.executable, "-I", "-S", "-c", code), chosen, ground).go(watch), rungs
    finally:
        ledger.close()
        os.close(nowhere)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_stopped_command_goes_on_where_it_was(here: Path) -> None:
    summary, rungs = supervised(here, STOPS, heartbeat_s=0.5)
    assert (summary.exit_code, summary.restarts) == (0, 0)
    assert rungs == ["wake it"]


def test_a_stopped_command_is_seen_though_a_process_of_its_own_works_on(here: Path) -> None:
    """A tracker's sender, a data loader: their processor time is no sign of life of the command."""
    helper = "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', " + repr(WORKS) + "])\n"
    summary, rungs = supervised(here, helper + STOPS, heartbeat_s=0.5)
    assert summary.exit_code == 0
    assert rungs == ["wake it"]


def test_a_deadlock_is_started_again(here: Path) -> None:
    summary, rungs = supervised(here, HANGS_ONCE, heartbeat_s=0.5)
    assert (summary.exit_code, summary.restarts) == (0, 1)
    assert rungs == ["start it again"]


def test_one_that_hangs_each_time_is_given_up_and_ended(here: Path) -> None:
    summary, rungs = supervised(here, HANGS, heartbeat_s=0.5)
    assert (summary.verdict, summary.exit_code) == ("given up", 125)
    assert len(summary.endings) <= 3
    assert rungs[-1] == "give up"


def test_work_without_output_is_no_silence(here: Path) -> None:
    summary, rungs = supervised(here, WORKS, heartbeat_s=0.5)
    assert (summary.exit_code, rungs) == (0, [])


def test_work_without_a_heartbeat_is_silence_where_one_is_named(here: Path) -> None:
    summary, rungs = supervised(here, BEATS_NOT, heartbeat_s=0.5, heartbeat_file=here / "beat", restarts=1)
    assert (summary.verdict, rungs[0]) == ("given up", "start it again")
