"""What is written comes back as it was, and the chain says so."""

import csv
import io
import json
import math
import threading

import pytest

from premortem.core.errors import ConfigError
from premortem.core.evidence import Record
from premortem.ledger import Filters, Ledger, Receipt, SqliteLedger, export


def record(tick=0, event="finding", entry="divergence", incident=1, **data):
    return Record(event, entry, incident, tick, float(tick), data)


@pytest.fixture
def ledger(tmp_path):
    with SqliteLedger(tmp_path / "ledger.db", run="r1") as opened:
        yield opened


def test_a_record_comes_back_as_it_was_written(ledger):
    written = record(7, text="ünï \ud800", nested={"a": [1, None, True]}, big=10**30)
    receipt = ledger.append(written)
    (row,) = ledger.records()
    assert (row.record, row.run, row.role, row.receipt) == (written, "r1", "note", receipt)
    assert receipt.committed
    assert receipt.seq == 1
    assert ledger.contains(receipt)


def test_non_finite_numbers_survive(ledger):
    ledger.append(record(loss=float("nan"), norm=float("-inf")))
    (row,) = ledger.records()
    assert math.isnan(row.record.data["loss"])
    assert row.record.data["norm"] == float("-inf")
    assert ledger.verify().ok


class Unfriendly:
    def __repr__(self):
        raise RuntimeError("no")


@pytest.mark.parametrize("value", [object(), {(1, 2): 3}, Unfriendly(), 2**70])
def test_what_json_cannot_hold_is_kept_as_text_and_not_refused(ledger, value):
    receipt = ledger.append(Record("finding", "e\ud800", 2**70, 0, 0.0, {"value": value}))
    assert receipt.committed
    assert ledger.contains(receipt)
    assert ledger.verify().ok


def test_a_receipt_of_something_else_is_not_contained(ledger):
    receipt = ledger.append(record())
    assert not ledger.contains(Receipt(receipt.seq, "0" * 64))
    assert not ledger.contains(Receipt(2, receipt.hash))
    assert not ledger.contains(Receipt(0, "", committed=False, token="unknown"))


def test_filters_select_by_event_entry_incident_run_place_and_time(ledger):
    ledger.append(record(1))
    ledger.append(record(2, event="opened", incident=2))
    ledger.append(record(3, entry="oom"))

    def ticks(**wanted):
        return [row.record.tick for row in ledger.records(Filters(**wanted))]

    assert ticks(events=("opened",)) == [2]
    assert ticks(events=("opened", "finding")) == [1, 2, 3]
    assert ticks(entry="oom") == [3]
    assert ticks(incident=2) == [2]
    assert ticks(run="other") == []
    assert ticks(after=1) == [2, 3]
    assert ticks(since=0.0, until=1.0) == []


def test_an_intent_is_unsettled_until_its_outcome_is_written(ledger):
    first, second = ledger.intend(record(1, event="intent")), ledger.intend(record(2, event="intent"))
    ledger.settle(first, record(1, event="outcome"))
    (row,) = ledger.unsettled()
    assert row.receipt == second
    assert ledger.unsettled(run="another") == []
    ledger.settle(row.receipt, record(2, event="outcome"))
    assert ledger.unsettled("r1") == []


def test_the_last_state_of_each_run_is_kept(ledger):
    assert ledger.load_state("r1") is None
    ledger.append(record(), state={"tries": 1})
    ledger.save_state("r2", {"tries": 9})
    ledger.settle(ledger.intend(record(), state={"tries": 2}), record(), state={"tries": 3, "x": [0.1]})
    assert ledger.load_state("r1") == {"tries": 3, "x": [0.1]}
    assert ledger.load_state("r2") == {"tries": 9}
    assert ledger.verify().ok


def test_a_resumed_run_finds_its_state_and_its_chain(tmp_path):
    with SqliteLedger(tmp_path / "a" / "ledger.db", run="r") as first:
        first.append(record(), state=[1, 2])
    with SqliteLedger(tmp_path / "a" / "ledger.db", run="r") as second:
        assert second.load_state("r") == [1, 2]
        assert second.append(record()).seq == 2
        assert second.verify().ok


def test_baselines_are_replaced_by_key(ledger):
    assert ledger.get_baseline("loss") is None
    ledger.put_baseline("loss", {"centre": 1.0})
    ledger.put_baseline("loss", {"centre": 2.0})
    assert ledger.get_baseline("loss") == {"centre": 2.0}
    assert ledger.verify().ok


def test_the_latest_proof_of_an_entry_is_found(ledger):
    assert ledger.latest_proof("oom") is None
    for verdict in ("failed", "passed"):
        ledger.append(record(event="proof", entry="oom", verdict=verdict))
    ledger.append(record(event="proof", entry="other", verdict="failed"))
    assert ledger.latest_proof("oom").record.data == {"verdict": "passed"}


def test_readings_come_back_in_order_with_nan_and_changing_signals(ledger):
    values = {"loss": 1.5, "norm": float("nan")}
    ledger.note_readings(1, values)
    values["loss"] = -1.0  # the caller's dict is its own
    ledger.note_readings(2, {"loss": 2.5})
    ledger.note_readings(3, {"loss": 3.5, "norm": 7})
    assert [(r.tick, r.value) for r in ledger.readings("loss")] == [(1, 1.5), (2, 2.5), (3, 3.5)]
    norms = [r.value for r in ledger.readings("norm", run="r1")]
    assert math.isnan(norms[0])
    assert norms[1:] == [7.0]
    assert list(ledger.readings(run="other")) == []
    assert list(ledger.records()) == []


def test_a_reading_that_is_no_number_is_nan(ledger):
    ledger.note_readings(1, {"loss": None, "norm": 1.0, "big": 10**400})
    assert [str(r.value) for r in ledger.readings()] == ["nan", "1.0", "nan"]


def test_readings_reach_the_disk_without_a_flush(ledger):
    ledger.note_readings(1, {"loss": 1.0})
    written = threading.Event()
    for _ in range(1000):
        with SqliteLedger(ledger.path, run="other") as other:
            if list(other.readings("loss", run="r1")):
                written.set()
                break
            threading.Event().wait(0.01)
    assert written.is_set()


def test_a_full_buffer_wakes_the_flusher_and_nothing_is_lost(ledger):
    for tick in range(10_000):
        ledger.note_readings(tick, {"loss": float(tick)})
    assert [r.tick for r in ledger.readings()] == list(range(10_000))


def test_close_anchors_the_readings_and_a_closed_ledger_opens_again(ledger):
    ledger.append(record())
    ledger.note_readings(1, {"loss": 1.0})
    ledger.close()
    assert ledger.verify().head_seq == 2
    assert ledger.append(record()).seq == 3
    assert ledger.verify().ok


def test_one_ledger_serves_many_threads(ledger):
    def write():
        for tick in range(25):
            ledger.append(record(tick))
            ledger.note_readings(tick, {"loss": 1.0})

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(ledger.records())) == 100
    assert len(list(ledger.readings())) == 100
    assert ledger.verify().ok


def test_a_rows_iterator_may_be_left_half_way(ledger):
    for tick in range(5):
        ledger.append(record(tick))
    assert next(ledger.records()).record.tick == 0
    assert ledger.append(record()).committed


def test_export_is_strict_json_and_csv(ledger):
    ledger.append(record(1, loss=float("nan"), more=[float("inf"), {"a": 1.0}]))
    ledger.append(record(2, event="opened"))
    lines, sheet = io.StringIO(), io.StringIO()
    assert export(ledger, lines, "jsonl") == 2
    first = json.loads(lines.getvalue().splitlines()[0], parse_constant=pytest.fail)
    assert first["data"] == {"loss": "nan", "more": ["inf", {"a": 1.0}]}
    assert export(ledger, sheet, "csv", Filters(events=("opened",))) == 1
    (row,) = csv.DictReader(io.StringIO(sheet.getvalue()))
    assert (row["seq"], row["event"], row["data"]) == ("2", "opened", "{}")


def test_open_takes_the_path_then_the_environment_then_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PREMORTEM_LEDGER", raising=False)
    Ledger.open().close()
    assert (tmp_path / ".premortem" / "ledger.db").exists()
    monkeypatch.setenv("PREMORTEM_LEDGER", str(tmp_path / "env.db"))
    with Ledger.open(run="r") as ledger:
        assert (ledger.path, ledger.run) == (tmp_path / "env.db", "r")
    with Ledger.open(tmp_path) as ledger:
        assert ledger.path == tmp_path / ".premortem" / "ledger.db"
    with pytest.raises(ConfigError, match="only a file path is supported"):
        Ledger.open("postgresql://host/db")


def test_ticks_that_cannot_be_stored_are_counted_and_hold_up_nothing(ledger):
    ledger.note_readings("no tick", {"loss": 1.0})
    ledger.flush()
    assert ledger.health().num_readings_lost == 1
    assert "1 ticks of readings are lost" in ledger.health().fault
    ledger.note_readings(2, {"loss": 2.0})
    assert [r.tick for r in ledger.readings()] == [2]
