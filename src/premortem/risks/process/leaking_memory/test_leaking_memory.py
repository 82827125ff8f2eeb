"""A leaking command: brought to its end before the limit, or recognised when the limit was faster."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from premortem.core.evidence import Record
from premortem.ledger.ledger import Ledger
from premortem.risks.process.leaking_memory import risk
from premortem.run.supervise.loop import Ground, Supervisor
from premortem.run.supervise.options import Options
from premortem.run.supervise.summary import Summary
from premortem.stages.process.group import LimitedGroup, LimitNotPermitted
from premortem.stages.process.workload import STOPPED_FOR_MEMORY

LEAKS = """
import json, os, sys, time
at, held = 0, []
if os.path.exists("ckpt.json"): at = json.load(open("ckpt.json"))["step"]
for step in range(at + 1, int(sys.argv[1]) + 1):
    held.append(b"x" * int(sys.argv[2])); time.sleep(0.05)
    json.dump({"step": step}, open("ckpt.new", "w")); os.replace("ckpt.new", "ckpt.json")
    print("step", step, flush=True)
"""
MIB = 1 << 20


def supervised(folder: Path, *words: str, limit: int, **options: object) -> tuple[Summary, list[Record]]:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    records: list[Record] = []
    ledger = Ledger.open(folder / "ledger.db")
    try:
        ground = Ground(
            ledger=ledger, place=folder / "ledger.db", say=lambda text: None, stdout=nowhere, stderr=nowhere
        )
        chosen = Options(memory_limit=limit, grace_s=1.0, every_s=0.1, backoff_s=0.1, **options)  # type: ignore[arg-type]
        command = (sys.executable, "-I", "-S", "-c", LEAKS, *words)
        return Supervisor(command, chosen, ground).go(records.append), records
    finally:
        ledger.close()
        os.close(nowhere)


def may_limit() -> bool:
    try:
        LimitedGroup(MIB).close()
    except LimitNotPermitted:
        return False
    return True


def test_a_leak_is_brought_to_its_end_and_never_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    summary, records = supervised(tmp_path, "90", str(int(1.5 * MIB)), limit=96 * MIB)
    assert (summary.verdict, summary.exit_code) == ("ended well", 0)
    assert json.loads((tmp_path / "ckpt.json").read_text()) == {"step": 90}
    assert summary.restarts >= 1
    assert {ended.kind for ended in summary.endings[:-1]} == {"stopped"}
    assert "recovered" in {record.event for record in records}
    assert ("kept by the kernel" in summary.limit_by) is may_limit()


def test_a_leap_over_the_limit_is_known_for_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not may_limit():
        with pytest.raises(LimitNotPermitted, match=r"run as root|no memory controller"):
            LimitedGroup(MIB)
        return
    monkeypatch.chdir(tmp_path)
    summary, _ = supervised(tmp_path, "9", str(200 * MIB), limit=64 * MIB, restarts=20)
    assert (summary.verdict, summary.exit_code) == ("given up", 125)
    assert {(ended.kind, ended.code) for ended in summary.endings} == {("memory", 137)}
    assert "killed by the kernel for memory" in summary.endings[0].words
    assert len(summary.endings) == 3  # as it was, then one for each level of settings


def test_what_the_risk_asks_is_what_the_workload_knows() -> None:
    asked = {rung.override.by for rung in risk.rungs(risk.Params()) if rung.control == "process"}
    assert asked == {STOPPED_FOR_MEMORY}


def test_a_kill_by_a_person_is_no_kill_for_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not may_limit():
        return
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ckpt.json").write_text('{"step": 0}')
    command = "import os; os.kill(os.getpid(), 9)"
    nowhere = os.open(os.devnull, os.O_WRONLY)
    ledger = Ledger.open(tmp_path / "ledger.db")
    ground = Ground(ledger=ledger, place=tmp_path / "ledger.db", say=lambda text: None, stdout=nowhere, stderr=nowhere)
    options = Options(memory_limit=200 * MIB, restarts=0, every_s=0.05)
    summary = Supervisor((sys.executable, "-I", "-S", "-c", command), options, ground).go()
    ledger.close()
    os.close(nowhere)
    assert (summary.exit_code, summary.endings[0].kind) == (137, "crash")
    assert "killed by somebody" in summary.endings[0].words
