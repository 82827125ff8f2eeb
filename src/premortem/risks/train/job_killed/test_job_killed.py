"""Jobs are killed for memory: the pool takes less at once, and every job comes to its end."""

from __future__ import annotations

import math
from pathlib import Path

from premortem import Guard
from premortem.core.engine import Engine
from premortem.core.evidence import Record
from premortem.faults.group import GroupLimit, group_refusal
from premortem.ledger.ledger import Ledger
from premortem.risks.train.job_killed.drill import MB, MODEL_MB, UNTRAINED, Bench
from premortem.run.bind import bind
from premortem.run.driver import Driver


def guarded(bench: Bench, megabytes: int, ledger: Path, num_looks: int = 900) -> list[Record]:
    """Looks until every job is over and the incident too; returns what the guard wrote."""
    guard = Guard("ultrathink", entries=("UT-R006",))
    records: list[Record] = []
    with Ledger.open(ledger, run="jobs") as evidence, GroupLimit(bench.group, megabytes * MB):
        driver = Driver(Engine(bind(guard.active, bench.workload, "ultrathink")), bench.workload, evidence, run="jobs")
        driver.listen(records.append)
        for tick in range(1, num_looks):
            driver.tick(bench.advance(tick), tick)
            if bench.pool.is_over and any(r.event in ("closed", "held", "handed_over") for r in records):
                break
    return records


def test_where_two_fit_two_run_and_all_four_finish(tmp_path: Path) -> None:
    if why := group_refusal():
        assert "memory group" in why
        return
    bench = Bench(5)
    try:
        records = guarded(bench, MODEL_MB + 275, tmp_path / "ledger.db")
        losses = bench.losses()
        model = bench.pool.seats[0]
        assert model.restarts == 0, "what must not be killed is not"
    finally:
        bench.close()
    turned = [r.data["rung"] for r in records if r.event == "intent" and r.data.get("verb") == "turn"]
    assert turned[0] == "run fewer jobs at once"
    assert "recovered" in {r.event for r in records}
    assert all(math.isfinite(loss) and loss < UNTRAINED - 0.5 for loss in losses)


def test_a_healthy_pool_raises_nothing(tmp_path: Path) -> None:
    if group_refusal():
        return
    bench = Bench(6)
    try:
        guard = Guard("ultrathink", entries=("UT-R006",))
        plan = bind(guard.active, bench.workload, "ultrathink")
        assert plan.gaps == ()
        engine = Engine(plan)
        for tick in range(1, 400):
            assert engine.observe(bench.advance(tick), tick, float(tick)) == []
            if bench.pool.is_over:
                break
        assert bench.pool.kills == 0
    finally:
        bench.close()
