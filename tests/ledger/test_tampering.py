"""Whatever is changed behind the ledger's back shows, and the first bad row is named."""

import shutil
import sqlite3

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from premortem.core.errors import StageError
from premortem.core.evidence import Record
from premortem.ledger import SqliteLedger

COLUMNS = ("role", "run", "event", "entry", "incident", "token", "settles", "body", "hash", "wall")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A ledger of every kind of row: 1-6 events, 7 state, 8 baseline, 9 readings, 10 event."""
    folder = tmp_path_factory.mktemp("written")
    with SqliteLedger(folder / "ledger.db", run="run") as ledger:
        for tick in range(6):
            ledger.append(Record("finding", "divergence", 1, tick, float(tick), {"loss": 1.5 * tick}))
        ledger.save_state("run", {"tries": 2})
        ledger.put_baseline("loss", {"centre": 1.0})
        for tick in range(20):
            ledger.note_readings(tick, {"loss": 1.0 * tick})
        ledger.flush()
        ledger.append(Record("opened", "divergence", 1, 9, 9.0))
        assert ledger.verify().ok
    return folder


@pytest.fixture
def ledger(written, tmp_path):
    shutil.copytree(written, tmp_path / "copy")
    return SqliteLedger(tmp_path / "copy" / "ledger.db", run="run")


def tamper(ledger, *statements, values=()):
    ledger.close()
    db = sqlite3.connect(ledger.path, isolation_level=None)
    for statement in statements:
        db.execute(statement, values)
    db.close()
    return ledger.verify()


@given(seq=st.integers(1, 10), column=st.sampled_from(COLUMNS), data=st.data())
@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_one_edited_byte_anywhere_in_a_row_is_found(written, tmp_path_factory, seq, column, data):
    folder = tmp_path_factory.mktemp("edit") / "copy"
    shutil.copytree(written, folder)
    db = sqlite3.connect(folder / "ledger.db", isolation_level=None)
    old = db.execute(f"SELECT CAST({column} AS TEXT) FROM chain WHERE seq = ?", (seq,)).fetchone()[0] or ""
    at = data.draw(st.integers(0, max(len(old) - 1, 0)))
    new = old[:at] + data.draw(st.sampled_from('0123456789abcdefxyz"{}é')) + old[at + 1 :]
    before = db.execute(f"SELECT {column} FROM chain WHERE seq = ?", (seq,)).fetchone()
    db.execute(f"UPDATE chain SET {column} = ? WHERE seq = ?", (new, seq))
    after = db.execute(f"SELECT {column} FROM chain WHERE seq = ?", (seq,)).fetchone()
    db.close()
    report = SqliteLedger(folder / "ledger.db").verify()
    assert report.ok == (before == after)
    assert report.first_bad == (None if before == after else seq)


@given(at=st.integers(0, 20 * 3 * 8 - 1), bit=st.integers(0, 7))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_one_flipped_bit_in_a_block_of_readings_is_found(written, tmp_path_factory, at, bit):
    folder = tmp_path_factory.mktemp("edit") / "copy"
    shutil.copytree(written, folder)
    db = sqlite3.connect(folder / "ledger.db", isolation_level=None)
    payload = bytearray(db.execute("SELECT payload FROM readings").fetchone()[0])
    payload[at] ^= 1 << bit
    db.execute("UPDATE readings SET payload = ?", (bytes(payload),))
    db.close()
    assert SqliteLedger(folder / "ledger.db").verify().first_bad == 9


@pytest.mark.parametrize(
    ("statement", "first_bad", "says"),
    [
        ("DELETE FROM chain WHERE seq = 3", 3, "missing"),
        ("DELETE FROM chain WHERE seq IN (1, 2)", 1, "missing"),
        ("DELETE FROM chain WHERE seq > 8", 9, "cut off the end"),
        ("DELETE FROM chain", 1, "cut off the end"),
        ("UPDATE chain SET seq = seq + 100 WHERE seq = 10", 10, "missing"),
        ("UPDATE chain SET hash = CAST(hash AS BLOB) WHERE seq = 4", 4, "do not fit"),
        ("UPDATE chain SET body = CAST(body AS BLOB) WHERE seq = 4", 4, "do not fit"),
        ("DELETE FROM readings", 9, "is missing"),
        ("UPDATE readings SET signals = CAST(signals AS BLOB)", 9, "another type"),
        ("UPDATE readings SET signals = replace(signals, 'loss', 'lass')", 9, "does not match"),
        ("INSERT INTO readings VALUES(5, '[]', x'')", 5, "does not match"),
        ("DELETE FROM documents WHERE kind = 'state'", 7, "state:run is missing"),
        ("UPDATE documents SET body = '{\"tries\":0}' WHERE kind = 'state'", 7, "state:run does not match"),
        ("UPDATE documents SET seq = 1 WHERE kind = 'baseline'", 1, "baseline:loss does not match"),
    ],
)
def test_what_was_changed_is_named(ledger, statement, first_bad, says):
    report = tamper(ledger, statement)
    assert not report.ok
    assert report.first_bad == first_bad
    assert says in " ".join(problem.text for problem in report.problems)


def test_two_rows_that_changed_places_are_found(ledger):
    report = tamper(
        ledger,
        "UPDATE chain SET seq = -1 WHERE seq = 3",
        "UPDATE chain SET seq = 3 WHERE seq = 4",
        "UPDATE chain SET seq = 4 WHERE seq = -1",
    )
    assert report.first_bad == 3


def test_a_cut_tail_still_shows_after_more_was_written(ledger):
    tamper(ledger, "DELETE FROM chain WHERE seq > 8", "DELETE FROM readings")
    assert ledger.append(Record("opened", "e", 1, 0, 0.0)).committed
    assert "rows were removed or changed" in ledger.health().fault
    for _ in range(5):
        ledger.append(Record("opened", "e", 1, 0, 0.0))
    report = ledger.verify()
    assert report.first_bad == 10
    assert "another hash than the head file" in report.problems[0].text


@pytest.mark.parametrize("damage", ["missing", "scrawled"])
def test_a_head_file_that_cannot_be_read_is_reported_and_not_made_anew(ledger, damage):
    head = ledger.path.with_suffix(".head")
    ledger.close()
    head.unlink() if damage == "missing" else head.write_bytes(b"x" * 1024)
    assert ledger.append(Record("opened", "e", 1, 0, 0.0)).committed
    assert "head file" in ledger.health().fault
    report = ledger.verify()
    assert (report.ok, report.head_seq, report.first_bad) == (False, None, None)


def test_one_torn_slot_of_the_head_falls_back_on_the_other(ledger):
    ledger.close()
    head = ledger.path.with_suffix(".head")
    data = bytearray(head.read_bytes())
    data[data.index(b"10 ")] ^= 1  # the slot of row 10; row 9 is a block of readings, anchored by the next event
    head.write_bytes(bytes(data))
    report = ledger.verify()
    assert (report.ok, report.head_seq) == (True, 8)


def test_a_ledger_swapped_for_an_empty_one_shows(ledger):
    ledger.close()
    ledger.path.unlink()
    assert ledger.append(Record("opened", "e", 1, 0, 0.0)).seq == 1
    assert ledger.verify().first_bad == 2


def test_a_state_that_was_edited_is_not_loaded(ledger):
    tamper(ledger, "UPDATE documents SET body = '{\"tries\":0}' WHERE kind = 'state'")
    with pytest.raises(StageError, match="state 'run' does not match its digest in the chain"):
        ledger.load_state("run")


def test_readings_that_do_not_fit_their_names_are_one_clear_error(ledger):
    tamper(ledger, "UPDATE readings SET payload = x'0000000000000000'")
    with pytest.raises(StageError, match="not what was written"):
        list(ledger.readings())


def test_a_row_that_is_no_row_any_more_is_one_clear_error(ledger):
    assert tamper(ledger, "UPDATE chain SET body = '[]' WHERE seq = 2").first_bad == 2
    with pytest.raises(StageError, match="run `premortem ledger verify`"):
        list(ledger.records())


def test_at_most_twenty_problems_are_kept_and_all_are_counted(ledger):
    for tick in range(30):
        ledger.append(Record("opened", "e", 1, tick, 0.0))
    report = tamper(ledger, "UPDATE chain SET hash = 'x'")
    assert (len(report.problems), report.num_problems > 30) == (20, True)


def test_a_damaged_page_is_reported_and_never_a_traceback(ledger):
    for tick in range(300):
        ledger.append(Record("opened", "e", 1, tick, 0.0, {"text": "x" * 100}))
    ledger.close()
    data = bytearray(ledger.path.read_bytes())
    page = 4096
    for start in range(page, len(data), page):
        data[start : start + 8] = b"\xff" * 8
    ledger.path.write_bytes(bytes(data))
    report = ledger.verify()
    assert not report.ok
    assert any("damaged" in p.text or "integrity" in p.text for p in report.problems)
