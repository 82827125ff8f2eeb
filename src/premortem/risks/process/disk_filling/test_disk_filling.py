"""A full file system: the command is paused before a write fails, and goes on when there is room."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest

from premortem.core.evidence import Record
from premortem.faults.disk import FilledDisk, FullTmpfs
from premortem.faults.fault import NotPermitted
from premortem.ledger.ledger import Ledger
from premortem.run.supervise.loop import Ground, Supervisor
from premortem.run.supervise.options import Options

MIB = 1 << 20
SAVES = """
import sys, time
for step in range(30):
    with open(sys.argv[1] + "/log", "ab") as log: log.write(b"." * (200 << 10))
    time.sleep(0.1)
"""


def test_it_is_paused_while_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if not may_mount():
        with pytest.raises(NotPermitted, match="mount"), FullTmpfs(MIB):
            pass
        return
    rungs: list[str] = []
    events: list[str] = []
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with FullTmpfs(32 * MIB, leave_bytes=None) as place:
        ballast = FilledDisk(place.folder, leave_bytes=3 * MIB + MIB // 2)

        def watch(record: Record) -> None:
            events.append(record.event)
            if record.event == "intent" and record.data.get("verb") in ("turn", "undo"):
                rungs.append(f"{record.data['verb']} {record.data['rung']}")
                threading.Timer(1.0, ballast.remove).start()

        ledger = Ledger.open(tmp_path / "ledger.db")
        ground = Ground(ledger=ledger, place=tmp_path / "ledger.db", say=lambda text: None, stdout=nowhere,
                        stderr=nowhere)  # fmt: skip
        options = Options(watch_disk=place.folder, disk_free=4 * MIB, every_s=0.05)
        ballast.__enter__()
        try:
            summary = Supervisor((sys.executable, "-I", "-S", "-c", SAVES, str(place.folder)), options, ground).go(
                watch
            )
            written = (place.folder / "log").stat().st_size
        finally:
            ballast.remove()
            ledger.close()
            os.close(nowhere)
    assert (summary.exit_code, summary.restarts) == (0, 0)
    assert written == 30 * (200 << 10)
    assert rungs == ["turn pause it", "undo pause it"]
    assert "closed" in events


def may_mount() -> bool:
    try:
        with FullTmpfs(MIB):
            return True
    except NotPermitted:
        return False
