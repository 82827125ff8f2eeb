"""The tracker is away for a part of a run: the ladder goes offline, and in the end each record is there once."""

from __future__ import annotations

from pathlib import Path

import pytest

from premortem.core.detector import Level
from premortem.core.engine import Engine
from premortem.core.evidence import Record
from premortem.faults.network import BadNetwork
from premortem.ledger.ledger import Ledger
from premortem.risks.train.tracker_offline.drill import Spooled
from premortem.risks.train.tracker_offline.risk import AWAY, DENIED, DISK, MENDED_LOCALLY, RISK, Params
from premortem.run.bind import bind
from premortem.run.driver import Driver
from premortem.run.guard import Guard

QUICK = {"train/tracker-offline": {"settle": 4, "confirm": 3, "deadline": 12}}


def test_a_dead_server_costs_no_record(tmp_path: Path) -> None:
    """The drill's run with a short patience: a real mlflow server behind a proxy that refuses."""
    run = Spooled(0)
    guard = Guard("agent-forge", entries=("AF-I.1",), params=QUICK)
    records: list[Record] = []
    try:
        with Ledger.open(tmp_path / "ledger.db", run="tracker") as evidence:
            plan = bind(guard.active, run.workload, guard.file.register)
            driver = Driver(Engine(plan), run.workload, evidence, run="tracker")
            driver.listen(records.append)
            with BadNetwork(run.run.proxy, "refuse"):
                ticks = _until("recovered", driver, run, records, 1)
            _until("closed", driver, run, records, ticks)
        assert [str(r.data["rung"]) for r in records if _is_turn(r)] == ["switch to offline mode"]
        assert run.outcome() == 0.0
    finally:
        run.close()


def _is_turn(record: Record) -> bool:
    return record.event == "intent" and record.data.get("verb") == "turn"


def _until(event: str, driver: Driver, run: Spooled, records: list[Record], tick: int) -> int:
    for now in range(tick, tick + 80):
        driver.tick(run.advance(now), now)
        if any(record.event == event for record in records):
            return now + 1
    raise AssertionError(f"not {event} in 80 ticks: {[(r.tick, r.event) for r in records]}")


@pytest.mark.parametrize(
    ("signal", "fine", "bad"),
    [("unsent_age", 59.0, 61.0), ("send_failures", 4.0, 5.0), ("run_missing", 59.0, 61.0), ("refused", 0.0, 1.0),
     ("spool_failures", 99.0, 100.0)],
)  # fmt: skip
def test_each_signal_is_red_at_its_bound_and_not_before(signal: str, fine: float, bad: float) -> None:
    (watch,) = [watch for watch in RISK.watches(Params()) if watch.signal == signal]
    detector = watch.detector()
    assert (detector.observe(fine) or Level.GREEN) < Level.RED
    assert detector.observe(bad) is Level.RED


def test_refused_credentials_are_mended_by_no_rung_and_a_full_disk_by_none_that_writes() -> None:
    rungs = {rung.name: rung.mends for rung in RISK.rungs(Params())}
    assert not any(DENIED in mends for mends in rungs.values())
    assert rungs["switch to offline mode"] == frozenset({AWAY})
    assert rungs["log locally"] == MENDED_LOCALLY == frozenset({AWAY, DISK})
