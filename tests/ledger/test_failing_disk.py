"""A disk that fails: nothing raises, the receipt says so, and the records come in later, in order and once."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from premortem.core.errors import ConfigError, StageError
from premortem.core.evidence import Record
from premortem.ledger import Filters, SqliteLedger
from premortem.ledger.chain import Draft
from premortem.ledger.query import rows
from premortem.ledger.spool import Spool

LIMITED = """
import resource, sys
from premortem.core.evidence import Record
from premortem.ledger import SqliteLedger
ledger = SqliteLedger(sys.argv[1], run="r")
for tick in range(5):
    assert ledger.append(Record("run", "", None, tick, 0.0)).committed
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))  # every file of the database is larger already
intent = ledger.intend(Record("intent", "", None, 5, 0.0), state={"tick": 5})
assert not intent.committed and intent.seq == 0, intent
assert not ledger.settle(intent, Record("outcome", "", None, 6, 0.0), state={"tick": 6}).committed
assert ledger.load_state("r") == {"tick": 6}
health = ledger.health()
assert health.num_spooled == 2 and health.spool.exists() and "disk" in health.fault, health
if sys.argv[2] == "die":
    import os
    os._exit(0)
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
assert ledger.append(Record("run", "", None, 7, 0.0)).committed
assert ledger.contains(intent) and not ledger.health().fault and not ledger.unsettled()
assert ledger.health().num_spooled == 0
ledger.close()
"""


def run_child(code, *arguments, **environment):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    subprocess.run(command, check=True, timeout=60, env=os.environ | environment)


def ticks(path):
    with SqliteLedger(path) as ledger:
        assert ledger.verify().ok
        return [row.record.tick for row in ledger.records()]


@pytest.mark.skipif(sys.platform == "win32", reason="this system has no file size limit")
def test_records_wait_while_the_disk_fails_and_follow_in_order(tmp_path):
    run_child(LIMITED, tmp_path / "ledger.db", "live")
    assert ticks(tmp_path / "ledger.db") == [0, 1, 2, 3, 4, 5, 6, 7]
    assert (tmp_path / "ledger.spool.jsonl").read_bytes() == b""


@pytest.mark.skipif(sys.platform == "win32", reason="this system has no file size limit")
def test_a_process_that_dies_meanwhile_leaves_its_records_to_the_next(tmp_path):
    run_child(LIMITED, tmp_path / "ledger.db", "die")
    spooled = (tmp_path / "ledger.spool.jsonl").read_bytes()
    assert ticks(tmp_path / "ledger.db") == [0, 1, 2, 3, 4, 5, 6]
    (tmp_path / "ledger.spool.jsonl").write_bytes(spooled)  # as if it died again before the spool was cut
    assert ticks(tmp_path / "ledger.db") == [0, 1, 2, 3, 4, 5, 6]
    with SqliteLedger(tmp_path / "ledger.db") as ledger:
        assert ledger.load_state("r") == {"tick": 6}


FULL = """
import os, pathlib, sys
from premortem.core.evidence import Record
from premortem.ledger import SqliteLedger
disk = pathlib.Path(sys.argv[1])
ledger = SqliteLedger(disk / "ledger.db", run="r")
ledger.append(Record("run", "", None, 0, 0.0))
with open(disk / "ballast", "wb", buffering=0) as ballast:
    try:
        while True:
            ballast.write(b"x" * 512)
    except OSError:
        pass
tick = 1
while ledger.append(Record("run", "", None, tick, 0.0, {"text": "x" * 3000})).committed:
    tick += 1
ledger.append(Record("run", "", None, tick + 1, 0.0, {"text": "x" * 9000}))
ledger.note_readings(0, {f"signal {number}": 1.0 for number in range(3000)})
ledger.flush()
health = ledger.health()
assert health.num_spooled == 2 and health.spool.parent != disk, health
assert health.fault.count("\\n") == 0 and "full" in health.fault, health
(disk / "ballast").unlink()
assert len(list(ledger.readings("signal 7"))) == 1
report = ledger.verify()
assert report.ok and ledger.health().fault == "", (report, ledger.health())
assert [row.record.tick for row in ledger.records()] == list(range(tick + 2))
ledger.close()
"""


def test_on_a_full_disk_records_wait_in_the_temporary_folder(tmp_path):
    disk, spool = tmp_path / "disk", tmp_path / "tmp"
    disk.mkdir()
    spool.mkdir()
    if os.name != "posix" or subprocess.run(["unshare", "-Urm", "true"], capture_output=True).returncode:
        pytest.skip("not run: this system lets no user mount a small disk")
    inside = 'mount -t tmpfs -o size=300k tmpfs "$1" && exec "$2" -c "$3" "$1"'
    command = ["unshare", "-Urm", "sh", "-c", inside, "sh", disk, sys.executable, FULL]
    subprocess.run(command, check=True, timeout=60, env=os.environ | {"TMPDIR": str(spool)})


READ_ONLY = """
import sys
from premortem.core.errors import StageError
from premortem.ledger import SqliteLedger
try:
    SqliteLedger(sys.argv[1])
except StageError as error:
    assert "read-only" in str(error) or "cannot be opened" in str(error), error
else:
    raise SystemExit("opened for writing on a read-only disk")
from premortem.ledger.head import Head
from premortem.ledger.verify import verify
from pathlib import Path
path = Path(sys.argv[1])
assert verify(path, Head(path.with_suffix(".head"))).num_rows == 1
"""


def test_a_ledger_on_a_read_only_disk_can_be_verified(tmp_path):
    if os.name != "posix" or subprocess.run(["unshare", "-Urm", "true"], capture_output=True).returncode:
        pytest.skip("not run: this system lets no user mount a disk")
    with SqliteLedger(tmp_path / "ledger.db") as ledger:
        ledger.append(Record("run", "", None, 0, 0.0))
    inside = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && exec "$2" -c "$3" "$1/ledger.db"'
    command = ["unshare", "-Urm", "sh", "-c", inside, "sh", tmp_path, sys.executable, READ_ONLY]
    subprocess.run(command, check=True, timeout=60)


def test_a_lock_held_by_another_spools_and_is_said_in_one_line(tmp_path):
    with SqliteLedger(tmp_path / "ledger.db", busy_s=0.05) as ledger:
        other = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        intent = ledger.intend(Record("intent", "", None, 0, 0.0), state={"a": 1})
        assert not intent.committed
        assert not ledger.contains(intent)
        (waiting,) = ledger.unsettled()
        assert (waiting.seq, waiting.receipt.committed) == (0, False)
        assert ledger.get_baseline("none") is None
        ledger.note_readings(0, {"loss": 1.0})
        fault = ledger.health().fault
        assert "another process holds it locked" in fault
        assert "\n" not in fault
        other.execute("COMMIT")
        other.close()
        ledger.flush()
        assert ledger.contains(intent)
        assert ledger.health().num_spooled == 0
        assert ledger.verify().ok


def test_opening_a_locked_ledger_is_one_clear_error(tmp_path):
    other = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StageError, match="another process holds it locked"):
        SqliteLedger(tmp_path / "ledger.db", busy_s=0.05)
    other.close()


def test_what_is_not_a_ledger_is_refused_in_one_line_and_left_alone(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("not a database " * 100)
    with pytest.raises(StageError, match="it is not an SQLite database") as caught:
        SqliteLedger(text)
    assert "\n" not in str(caught.value)
    assert text.read_text() == "not a database " * 100
    with pytest.raises(ConfigError, match="a folder was found"):
        SqliteLedger(tmp_path)
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE mine(a)")
    other.close()
    with pytest.raises(ConfigError, match="another program's database"):
        SqliteLedger(tmp_path / "other.db")
    with pytest.raises(StageError, match=r"cannot be opened|cannot be written|failed"):
        SqliteLedger(text / "below" / "ledger.db")


def test_a_newer_schema_is_refused(tmp_path):
    SqliteLedger(tmp_path / "ledger.db").close()
    db = sqlite3.connect(tmp_path / "ledger.db")
    db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(ConfigError, match="schema version 99 was found, 1 is the newest known"):
        SqliteLedger(tmp_path / "ledger.db")


def test_reading_a_ledger_that_is_gone_is_one_clear_error(tmp_path):
    ledger = SqliteLedger(tmp_path / "ledger.db")
    ledger.close()
    (tmp_path / "ledger.db").unlink()
    with pytest.raises(StageError, match="no file was found"):
        ledger.verify()


def test_a_torn_line_in_the_spool_is_kept_as_evidence(tmp_path):
    SqliteLedger(tmp_path / "ledger.db").close()
    (tmp_path / "ledger.spool.jsonl").write_text('{"wall": 1.0, "ru')
    with SqliteLedger(tmp_path / "ledger.db") as ledger:
        (row,) = ledger.records()
        assert (row.record.event, row.record.data["line"]) == ("guard_fault", '{"wall": 1.0, "ru')
    assert ticks(tmp_path / "ledger.db") == [0]


def test_another_process_s_waiting_records_are_not_cut_off(tmp_path):
    path = tmp_path / "ledger.db"
    with SqliteLedger(path, busy_s=0.05) as first, SqliteLedger(path, busy_s=0.05) as second:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        first.append(Record("run", "", None, 1, 0.0))
        second.append(Record("run", "", None, 2, 0.0))
        other.execute("COMMIT")
        other.close()
        first.flush()
        lines = (tmp_path / "ledger.spool.jsonl").read_text().splitlines()
        assert [json.loads(line)["record"]["tick"] for line in lines] in ([1, 2], [])
        second.flush()
    assert sorted(ticks(path)) == [1, 2]


def test_readings_over_the_limit_are_shed_oldest_first_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("premortem.ledger.readings.MOST_WAITING", 10)
    with SqliteLedger(tmp_path / "ledger.db", busy_s=0.05) as ledger:
        other = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        for tick in range(15):
            ledger.note_readings(tick, {"loss": 1.0})
        ledger.flush()
        assert ledger.health().num_readings_lost == 5
        other.execute("COMMIT")
        other.close()
        assert [r.tick for r in ledger.readings()] == list(range(5, 15))


def draft(token):
    return Draft(1.0, "r", "note", token, record=Record("run", "", None, 0, 0.0))


def test_without_any_disk_the_spool_keeps_records_in_memory(tmp_path):
    spool = Spool(tmp_path / "gone" / "ledger.db")
    spool._homes = (tmp_path / "gone" / "spool", tmp_path)  # no folder; a folder where a file is needed
    spool.keep(draft("a"))
    assert (len(spool.waiting), spool.home) == (1, None)
    spool.release()
    assert spool.waiting == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_spool_on_a_full_device_moves_on_to_the_next(tmp_path):
    spool = Spool(tmp_path / "ledger.db")
    spool._homes = (Path("/dev/full"), tmp_path / "spool")
    spool.keep(draft("a"))
    spool.keep(draft("b"))
    assert spool.home == tmp_path / "spool"
    assert [json.loads(line)["token"] for line in (tmp_path / "spool").read_text().splitlines()] == ["a", "b"]


def test_a_line_after_a_torn_one_is_still_read(tmp_path):
    (tmp_path / "ledger.spool.jsonl").write_bytes(b'{"torn')
    Spool(tmp_path / "ledger.db").keep(draft("whole"))
    spool = Spool(tmp_path / "ledger.db")
    spool.load()
    assert [d.token[:5] for d in spool.waiting] == ["torn-", "whole"]


def test_a_reader_on_a_damaged_file_gets_one_clear_error(tmp_path):
    (tmp_path / "ledger.db").write_text("no database " * 50)
    with pytest.raises(StageError, match="it is not an SQLite database"):
        list(rows(tmp_path / "ledger.db", Filters()))


def test_a_file_another_holds_locked_cannot_become_a_ledger_until_it_is_free(tmp_path):
    other = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StageError, match="another process holds it locked"):
        SqliteLedger(tmp_path / "ledger.db", busy_s=0.05)
    other.execute("ROLLBACK")
    other.close()
    SqliteLedger(tmp_path / "ledger.db").close()
