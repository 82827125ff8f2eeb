"""Killed, forked, shared: no acknowledged record is lost, and the chain stays one line."""

import os
import random
import subprocess
import sys

import pytest

from premortem.core.evidence import Record
from premortem.ledger import SqliteLedger, flusher

WRITER = """
import sys
from premortem.core.evidence import Record
from premortem.ledger import SqliteLedger
ledger = SqliteLedger(sys.argv[1], run=sys.argv[2], busy_s=60)
for tick in range(int(sys.argv[3])):
    ledger.note_readings(tick, {"loss": 1.0})
    receipt = ledger.intend(Record("intent", "e", 1, tick, 0.0), state={"tick": tick})
    print(receipt.seq, receipt.hash, receipt.committed, flush=True)
"""


def writer(path, run, num_ticks):
    command = [sys.executable, "-c", WRITER, str(path), run, str(num_ticks)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_ten_kills_lose_no_acknowledged_record(tmp_path):
    path, chance, acknowledged = tmp_path / "ledger.db", random.Random(0), []
    for kill in range(10):
        with writer(path, f"run{kill}", 10**9) as child:
            acknowledged += [child.stdout.readline().split() for _ in range(chance.randrange(1, 40))]
            child.kill()  # at once: at whatever point the child has reached meanwhile
            acknowledged += [line.split() for line in child.stdout if line.endswith("True\n")]
        with SqliteLedger(path) as ledger:
            assert ledger.verify().ok
            stored = {str(row.seq): row for row in ledger.records()}
            assert all(stored[seq].hash == row_hash for seq, row_hash, _ in acknowledged)
            assert ledger.load_state(f"run{kill}")["tick"] == ledger.unsettled(f"run{kill}")[-1].record.tick


def test_two_processes_write_one_straight_chain(tmp_path):
    children = [writer(tmp_path / "ledger.db", f"run{number}", 50) for number in range(3)]
    outputs = [child.communicate()[0].split() for child in children]
    assert [child.returncode for child in children] == [0, 0, 0]
    assert all(output[2::3] == ["True"] * 50 for output in outputs)
    with SqliteLedger(tmp_path / "ledger.db") as ledger:
        report = ledger.verify()
        assert report.ok, report.problems
        rows = list(ledger.records())
        assert len(rows) == 150
        for number in range(3):
            assert [r.record.tick for r in rows if r.run == f"run{number}"] == list(range(50))
            assert [r.tick for r in ledger.readings(run=f"run{number}")] == list(range(50))


FORKER = """
import os, sys
from premortem.core.evidence import Record
from premortem.ledger import SqliteLedger
ledger = SqliteLedger(sys.argv[1], run="r")
ledger.append(Record("run", "parent", None, 0, 0.0))
ledger.note_readings(0, {"loss": 1.0})
child = os.fork()
who = "parent" if child else "child"
for tick in range(20):
    assert ledger.append(Record("run", who, None, tick, 0.0)).committed
    ledger.note_readings(tick, {who: 1.0})
if child:
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_writes_with_its_own_connection(tmp_path):
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKER, str(tmp_path / "ledger.db")]
    subprocess.run(command, check=True, timeout=60)
    with SqliteLedger(tmp_path / "ledger.db") as ledger:
        assert ledger.verify().ok
        assert len(list(ledger.records())) == 41
        assert len(list(ledger.readings("loss"))) == 1  # the parent's buffer is the parent's to write
        assert (len(list(ledger.readings("child"))), len(list(ledger.readings("parent")))) == (20, 20)


def test_a_forgotten_ledger_ends_its_thread(tmp_path):
    ledger = SqliteLedger(tmp_path / "ledger.db")
    ledger.note_readings(0, {"loss": 1.0})
    thread = ledger._writer._flusher._thread
    ledger.flush()
    ledger._writer._disconnect()
    del ledger
    thread.join(30)
    assert not thread.is_alive()


def test_a_ledger_moved_away_underneath_loses_no_later_record(tmp_path):
    with SqliteLedger(tmp_path / "ledger.db") as ledger:
        ledger.append(Record("run", "", None, 0, 0.0))
        for end in ("", "-wal", "-shm"):
            (tmp_path / f"ledger.db{end}").rename(tmp_path / f"moved.db{end}")
        receipt = ledger.append(Record("run", "", None, 1, 0.0))
        assert receipt.committed
        assert ledger.contains(receipt)


def test_a_ledger_that_starts_over_writes_on_with_a_new_connection(tmp_path):
    with SqliteLedger(tmp_path / "ledger.db") as ledger:
        ledger.append(Record("run", "", None, 0, 0.0))
        old = ledger._writer._db
        flusher._before_fork()
        flusher._after_in_parent()
        assert ledger._writer._db is old
        flusher._before_fork()
        flusher._after_in_child()
        assert ledger.append(Record("run", "", None, 1, 0.0)).seq == 2
        assert ledger._writer._db is not old
        assert ledger.verify().ok
