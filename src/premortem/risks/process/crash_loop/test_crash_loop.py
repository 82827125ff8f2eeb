"""Crashes: one is mended, a loop is ended, and what differs by numbers only is the same."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from premortem.ledger.ledger import Ledger
from premortem.run.supervise.loop import Ground, Supervisor
from premortem.run.supervise.options import Options
from premortem.run.supervise.summary import Summary

LOOP = """
import os, sys
with open("starts", "a") as starts: starts.write("x")
print("step", 1003)
raise RuntimeError(f"loss is not finite at 0x{id(sys):x}, pid {os.getpid()}")
"""
GOES_ON = """
import os, signal
at = int(open("at").read()) if os.path.exists("at") else 0
for step in range(at + 1, 7):
    print("step", step, flush=True)
    open("at", "w").write(str(step))
    if step < 6: os.kill(os.getpid(), signal.SIGSEGV)
"""
OFFLINE = """
import os, sys
if os.environ.get("HF_HUB_OFFLINE") == "1": sys.exit(0)
raise ConnectionError("Max retries exceeded: Temporary failure in name resolution")
"""


def supervised(folder: Path, code: str, **options: object) -> Summary:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    ledger = Ledger.open(folder / "ledger.db")
    try:
        ground = Ground(
            ledger=ledger, place=folder / "ledger.db", say=lambda text: None, stdout=nowhere, stderr=nowhere
        )
        chosen = Options(**{"every_s": 0.03, "backoff_s": 0.05, **options})  # type: ignore[arg-type]
        return Supervisor((sys.executable, "-I", "-S", "-c", code), chosen, ground).go()
    finally:
        ledger.close()
        os.close(nowhere)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return tmp_path


def test_44_identical_crashes_are_not_repeated(here: Path) -> None:
    summary = supervised(here, LOOP, restarts=44)
    assert (here / "starts").read_text() == "xxx"
    assert (summary.verdict, summary.exit_code) == ("given up", 125)
    assert summary.endings[-1].same == 3
    assert "3 times in a row without progress" in summary.lines()[-2]


def test_crashes_with_progress_between_them_are_bad_luck(here: Path) -> None:
    summary = supervised(here, GOES_ON)
    assert (summary.verdict, summary.exit_code, summary.restarts) == ("ended well", 0, 5)
    assert all(ended.progress for ended in summary.endings)


def test_the_cap_on_all_restarts_holds_whatever_the_progress(here: Path) -> None:
    summary = supervised(here, GOES_ON, restarts=2)
    assert (summary.verdict, summary.exit_code, summary.restarts) == ("given up", 125, 2)
    assert "2 of 2 restarts are used" in summary.why or "no restart left" in summary.why


def test_a_service_that_is_away_is_done_without(here: Path) -> None:
    summary = supervised(here, OFFLINE)
    assert (summary.verdict, summary.exit_code) == ("ended well", 0)
    assert {ended.kind for ended in summary.endings[:-1]} == {"network"}
    assert summary.restarts <= 4


def test_without_restarts_the_code_is_the_commands_own(here: Path) -> None:
    assert supervised(here, LOOP, restarts=0).exit_code == 1
    assert (here / "starts").read_text() == "x"
