"""``guard.watching``: any workload, from a loop, from asyncio, or one content at a time."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from premortem.core.action import Override, Owner, Setting
from premortem.core.errors import ConfigError
from premortem.core.evidence import Plain
from premortem.core.signal import Signal
from premortem.ledger.ledger import Filters, Ledger, Receipt
from premortem.parts.controls import HeldSetting
from premortem.run import discover
from premortem.run.evidence import incidents, request
from premortem.run.guard import Guard
from premortem.run.watching import Standing, Watch

RISK = '''"""The tank runs over."""
from dataclasses import dataclass

from premortem.core.action import Override
from premortem.core.clock import ticks
from premortem.core.ladder import Rung
from premortem.core.risk import Risk, Watch
from premortem.parts.detectors import RatioToBest, Threshold

OVER = frozenset({"too full"})


@dataclass(frozen=True)
class Params:
    red: float = 10.0


RISK = Risk(
    "the tank runs over", "tank", Params,
    lambda p: (
        Watch("level", "level", "too full", lambda: Threshold(red=p.red)),
        Watch("pace", "level", "too full", lambda: RatioToBest(factor=1e6, window=16, warm_up=3)),
    ),
    lambda p: (
        Rung("open the valve", "valve", Override("choose", "open"), OVER, settle=ticks(0), confirm=2,
             deadline=ticks(4)),
    ),
    lambda p: None,
)
'''
REGISTER = """schema: premortem/v1
register: tank
title: A tank
source: a test
entries:
  - id: TK-1
    title: the tank runs over
    status: active
    stage: tank
    severity: high
    probability: low
    owner: the keeper
    outcome: a wet floor
    risks: [{risk: tank/runs-over}]
    sees: [{signal: level, red: 10}]
    ladder: [{rung: open the valve}]
    relapse_watch: 3 ticks
    contingency: call the keeper
    drill: none
"""
HEALTHY, FULL = {"level": 1.0}, {"level": 20.0}


class Tank:
    """One signal, one valve."""

    kind = "tank"
    signals = (Signal("level", "m"), Signal("valve_open", "flag"))

    def __init__(self, valve: HeldSetting | None = None) -> None:
        self.valve = valve or HeldSetting("shut")
        self.controls = {"valve": self.valve}
        self.witnesses: dict[str, str] = {}
        self.conditions: dict[str, object] = {}


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[Guard]:
    """A register and a risk of one's own, in folders that nobody installed."""
    folder = tmp_path / f"risks_of_{tmp_path.name}" / "tank" / "runs_over"
    folder.mkdir(parents=True)
    (folder / "risk.py").write_text(RISK)
    (tmp_path / "register.yaml").write_text(REGISTER)
    paths, brought = list(sys.path), dict(discover._BROUGHT)
    try:
        yield Guard(tmp_path / "register.yaml", risks=folder.parents[1])
    finally:
        sys.path[:] = paths
        discover._BROUGHT.clear()
        discover._BROUGHT.update(brought)
        discover.find_risks.cache_clear()


def test_a_loop_is_guarded_from_finding_to_recovery_and_back(guard: Guard, tmp_path: Path) -> None:
    tank, said = Tank(), []
    with guard.watching(tank, home=tmp_path / "home", probation=3, say=said.append) as watch:
        for _ in range(5):
            watch.tick(HEALTHY)
        assert watch.standing.is_healthy
        watch.tick(FULL)
        assert watch.standing.open == ("TK-1",)
        assert tank.valve.value == "open"
        for _ in range(12):
            watch.tick([1.0, None])
        assert watch.standing.is_healthy
        assert tank.valve.value == "shut"
    found = _incidents(tmp_path / "home")
    assert [(i.verdict, i.after_rung, [r.verdict for r in i.rungs]) for i in found] == [
        ("recovered", "open the valve", ["helped"])
    ]
    assert any("rung: open the valve" in line for line in said)
    with Ledger.open(tmp_path / "home" / "ledger.db") as ledger:  # type: ignore[attr-defined]
        assert ledger.verify().ok
        assert [r.value for r in ledger.readings("level")][:6] == [1.0, 1.0, 1.0, 1.0, 1.0, 20.0]


def test_an_event_loop_goes_on_while_a_control_is_turned(guard: Guard, tmp_path: Path) -> None:
    """The valve opens only once the loop has gone on: a guard that held the loop would never see it open."""
    loop_went_on = threading.Event()

    def apply(value: Setting) -> None:
        if value == "open":
            assert loop_went_on.wait(20.0)

    tank = Tank(HeldSetting("shut", apply))

    async def serve() -> None:
        async with guard.watching(tank, home=tmp_path, probation=3) as watch:
            await watch.observe(HEALTHY)
            turned = watch.post(FULL)
            await asyncio.sleep(0)
            assert not turned.done()
            loop_went_on.set()
            await asyncio.wrap_future(turned)
            for _ in range(12):
                await watch.observe(HEALTHY)
            assert watch.standing.open == ()

    asyncio.run(serve())
    assert [(i.verdict, i.after_rung) for i in _incidents(tmp_path)] == [("recovered", "open the valve")]


def test_a_cancelled_caller_leaves_its_row_to_the_guard(guard: Guard, tmp_path: Path) -> None:
    began, may_end = threading.Event(), threading.Event()

    def apply(value: Setting) -> None:
        began.set()
        assert may_end.wait(20.0)

    async def serve() -> int:
        async with guard.watching(Tank(HeldSetting("shut", apply)), home=tmp_path) as watch:
            first = asyncio.create_task(watch.observe(FULL))
            await asyncio.to_thread(began.wait, 20.0)
            second = asyncio.create_task(watch.observe(HEALTHY))
            await asyncio.sleep(0)
            second.cancel()
            may_end.set()
            await asyncio.gather(first, second, return_exceptions=True)
        return watch.ticks

    assert asyncio.run(serve()) == 2


def test_rows_beyond_those_that_may_wait_are_reported_as_not_watched(guard: Guard, tmp_path: Path) -> None:
    began, may_end = threading.Event(), threading.Event()

    def apply(value: Setting) -> None:
        began.set()
        assert may_end.wait(20.0)

    with guard.watching(Tank(HeldSetting("shut", apply)), home=tmp_path, most_waiting=2) as watch:
        watch.post(FULL)
        assert began.wait(20.0)
        futures = [watch.post(HEALTHY) for _ in range(5)]
        may_end.set()
        for future in futures:
            future.result(20.0)
    assert watch.ticks == 2
    assert "4 rows were left out" in str([row.record.data for row in _rows(tmp_path, "unwatched")])


def test_rows_of_several_threads_are_taken_one_at_a_time(guard: Guard, tmp_path: Path) -> None:
    with guard.watching(Tank(), home=tmp_path) as watch:
        ticking = [threading.Thread(target=lambda: [watch.tick(HEALTHY) for _ in range(50)]) for _ in range(4)]
        for thread in ticking:
            thread.start()
        for thread in ticking:
            thread.join()
        assert watch.ticks == 200
        assert watch.standing.is_healthy


def test_a_rung_that_names_no_watch_is_reported(guard: Guard, tmp_path: Path) -> None:
    page = tmp_path / "second_risks" / "tank" / "spills" / "risk.py"
    page.parent.mkdir(parents=True)
    page.write_text(RISK.replace("settle=ticks(0)", "peel_after='rain', settle=ticks(0)"))
    (tmp_path / "spills.yaml").write_text(REGISTER.replace("tank/runs-over", "tank/spills"))
    with Guard(tmp_path / "spills.yaml", risks=tmp_path / "second_risks").watching(Tank(), home=tmp_path):
        pass
    assert "no watch 'rain'" in str([row.record.data for row in _rows(tmp_path, "unwatched")])


def test_the_same_content_is_assessed_once_and_over_restarts(guard: Guard, tmp_path: Path) -> None:
    with guard.watching(Tank(), home=tmp_path) as watch:
        assert watch.assess("aa", FULL)
        assert not watch.assess("aa", HEALTHY)
        assert not watch.standing.is_green
    with guard.watching(Tank(), home=tmp_path) as watch:
        assert not watch.assess("aa", HEALTHY)
        assert not watch.standing.is_green
        assert watch.standing.open == ("TK-1",)
        assert watch.assess("bb", HEALTHY)
        assert watch.ticks == 2
        with pytest.raises(ConfigError, match="empty content"):
            watch.assess("", HEALTHY)


def test_a_restart_puts_the_setting_back_and_goes_on_with_windows_and_incident(guard: Guard, tmp_path: Path) -> None:
    with guard.watching(Tank(), home=tmp_path, probation=3) as watch:
        for _ in range(5):
            watch.tick(HEALTHY)
        watch.tick(FULL)
        before = watch.engine.observer.state()
    tank = Tank()
    with guard.watching(tank, home=tmp_path, probation=3) as watch:
        assert tank.valve.value == "open"
        assert watch.engine.observer.state() == before
        assert watch.ticks == 6
        for _ in range(12):
            watch.tick(HEALTHY)
        assert tank.valve.value == "shut"
    assert [(i.verdict, i.after_rung) for i in _incidents(tmp_path)] == [("recovered", "open the valve")]


def test_contents_are_counted_over_processes_and_a_finding_is_told_once(guard: Guard, tmp_path: Path) -> None:
    """A window that began anew with each process would neither fill nor end."""
    opened: list[tuple[str, ...]] = []
    (tmp_path / "valve").write_text("shut")
    for number, row in enumerate([FULL, FULL, HEALTHY, *[HEALTHY] * 12]):
        valve = HeldSetting("shut", (tmp_path / "valve").write_text, (tmp_path / "valve").read_text)
        with guard.watching(Tank(valve), home=tmp_path) as watch:
            watch.assess(f"content {number}", row)
            opened.append(watch.standing.open)
    assert opened[0] == ("TK-1",)
    assert opened[-1] == ()
    found = _incidents(tmp_path)
    assert [(i.verdict, i.after_rung, i.ticks) for i in found] == [("recovered", "open the valve", 6)]
    levels = [row.record.data["level"] for row in _rows(tmp_path, "finding")]
    assert levels == ["RED", "GREEN"]


def test_a_verification_that_no_content_passes_ends_at_its_deadline_over_processes(
    guard: Guard, tmp_path: Path
) -> None:
    (tmp_path / "valve").write_text("shut")
    for number in range(8):
        valve = HeldSetting("shut", (tmp_path / "valve").write_text, (tmp_path / "valve").read_text)
        with guard.watching(Tank(valve), home=tmp_path) as watch:
            watch.assess(f"content {number}", FULL)
    assert [(i.verdict, [r.verdict for r in i.rungs]) for i in _incidents(tmp_path)] == [("handed over", ["failed"])]


def test_two_days_for_a_person_are_two_days_though_each_assessment_is_a_process(
    guard: Guard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = REGISTER.replace("{rung: open the valve}", "{rung: open the valve, request: true, deadline: 2 days}")
    (tmp_path / "asked.yaml").write_text(asked)
    asking, began = Guard(tmp_path / "asked.yaml"), time.time()

    def assessed(days: float) -> Standing:
        monkeypatch.setattr("premortem.run.home.time.time", lambda: began + days * 86_400)
        by_hand = HeldSetting("shut", lambda value: None, lambda: "shut")
        with asking.watching(Tank(by_hand), home=tmp_path) as watch:
            watch.tick(FULL)
            return watch.standing

    assert [assessed(days).handed_over for days in (0.0, 1.0, 1.9, 2.1)] == [(), (), (), ("TK-1",)]
    assert "no evidence by its due date" in str([row.record.data for row in _rows(tmp_path, "verified")])


def test_what_a_person_acknowledged_is_released_when_the_watch_opens(guard: Guard, tmp_path: Path) -> None:
    with guard.watching(Tank(), home=tmp_path) as watch:
        for _ in range(12):
            watch.tick(FULL)
        assert watch.standing.handed_over == ("TK-1",)
    ledger = Ledger.open(tmp_path / "ledger.db", run="tank")
    request(ledger, "acknowledged", "TK-1", "Ada")
    ledger.close()
    with guard.watching(Tank(), home=tmp_path) as watch:
        assert watch.standing.handed_over == ()


def test_a_watch_that_was_killed_goes_on_with_its_incident_and_its_setting(guard: Guard, tmp_path: Path) -> None:
    """No closing, no last word: what counts was committed before it was carried out."""
    pid = os.fork()
    if pid == 0:
        watch = guard.watching(Tank(), home=tmp_path, probation=3).__enter__()
        for row in (HEALTHY, HEALTHY, FULL):
            watch.tick(row)
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    tank = Tank()
    with guard.watching(tank, home=tmp_path, probation=3) as watch:
        assert (tank.valve.value, watch.standing.open, watch.ticks) == ("open", ("TK-1",), 3)
        for _ in range(12):
            watch.tick(HEALTHY)
    assert [(i.verdict, i.after_rung) for i in _incidents(tmp_path)] == [("recovered", "open the valve")]


def test_a_ledger_that_hangs_holds_up_no_tick(guard: Guard, tmp_path: Path) -> None:
    said: list[str] = []
    with guard.watching(Tank(), home=tmp_path, patience_s=0.1, say=said.append) as watch:
        never, save = threading.Event(), watch.ledger.save_state

        def hang(run: str, blob: Plain) -> Receipt:
            never.wait(30.0)
            return save(run, blob)

        watch.ledger.save_state = hang  # type: ignore[method-assign]
        assert watch.assess("aa", HEALTHY)
        watch.tick(FULL)
        never.set()
    assert any("was not kept: no answer within 0.1 s" in words for words in said)


def test_two_watches_of_one_name_and_home_are_refused(guard: Guard, tmp_path: Path) -> None:
    with guard.watching(Tank(), home=tmp_path):
        with pytest.raises(ConfigError, match="one at a time"):
            guard.watching(Tank(), home=tmp_path).__enter__()
        with guard.watching(Tank(), home=tmp_path, name="another") as other:
            other.tick(HEALTHY)
    with guard.watching(Tank(), home=tmp_path):
        pass


def test_a_users_mistakes_are_one_clear_line(guard: Guard, tmp_path: Path) -> None:
    class Silo(Tank):
        kind = "silo"

    with pytest.raises(ConfigError, match="'silo'"):
        guard.watching(Silo(), home=tmp_path)
    with pytest.raises(ConfigError, match="did you mean 'probation'"):
        guard.watching(Tank(), home=tmp_path, probaton=3)
    with pytest.raises(ConfigError, match="at least 1"):
        guard.watching(Tank(), home=tmp_path, probation=0)
    watch = guard.watching(Tank(), home=tmp_path)
    with pytest.raises(ConfigError, match="not open"):
        watch.tick(HEALTHY)
    with watch:
        _refuses_bad_rows(watch)
    with pytest.raises(ConfigError, match="not open"):
        watch.post(HEALTHY)
    with pytest.raises(ConfigError, match="entered twice"):
        watch.__enter__()


def _refuses_bad_rows(watch: Watch) -> None:
    with pytest.raises(ConfigError, match="did you mean 'level'"):
        watch.tick({"levle": 1.0})
    with pytest.raises(ConfigError, match="expected a number"):
        watch.tick({"level": "high"})  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match="found 1 values"):
        watch.tick([1.0])
    assert watch.ticks == 0


def test_a_folder_of_risks_that_cannot_be_brought_is_refused(guard: Guard, tmp_path: Path) -> None:
    empty = tmp_path / "nothing_here"
    empty.mkdir()
    with pytest.raises(ConfigError, match="found no risk"):
        discover.bring_risks(empty)
    _risk_in(tmp_path / "no-name")
    with pytest.raises(ConfigError, match="no name for a Python package"):
        discover.bring_risks(tmp_path / "no-name")
    _risk_in(tmp_path / "json")
    with pytest.raises(ConfigError, match="rename"):
        discover.bring_risks(tmp_path / "json")
    _risk_in(tmp_path / "second_package")
    with pytest.raises(ConfigError, match="tank/runs-over is already at"):
        discover.bring_risks(tmp_path / "second_package")
    assert "tank/runs-over" in discover.find_risks()


def test_a_command_finds_the_risks_of_a_named_folder(guard: Guard, tmp_path: Path) -> None:
    folder = next(tmp_path.glob("risks_of_*"))
    valid = [sys.executable, "-m", "premortem.app.cli.main", "register", "validate", str(tmp_path / "register.yaml")]

    def validated(folders: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PREMORTEM_RISKS": folders}
        return subprocess.run(valid, env=environment, capture_output=True, text=True, check=False)

    assert validated(str(folder)).returncode == 0
    missing = validated("")
    assert (missing.returncode, "unknown risk 'tank/runs-over'" in missing.stderr) == (2, True)
    with pytest.raises(ConfigError, match=r"found no drill\.py"):
        discover.find_risk("tank/runs-over", "here").drill_module()
    empty = validated(str(tmp_path / "nowhere"))
    assert (empty.returncode, "found no risk" in empty.stderr) == (2, True)


def test_a_workload_that_raises_in_its_control_goes_on(guard: Guard, tmp_path: Path) -> None:
    class Stuck(HeldSetting):
        def turn(self, owner: Owner, override: Override) -> None:
            raise RuntimeError("the valve is stuck")

    with guard.watching(Tank(Stuck("shut")), home=tmp_path) as watch:
        for _ in range(3):
            watch.tick(FULL)
        assert watch.standing.handed_over == ("TK-1",)


def _risk_in(folder: Path) -> None:
    page = folder / "tank" / "runs_over" / "risk.py"
    page.parent.mkdir(parents=True)
    page.write_text(RISK)


def _incidents(home: Path) -> list:  # type: ignore[type-arg]
    ledger = Ledger.open(home / "ledger.db")
    try:
        return incidents(ledger)
    finally:
        ledger.close()


def _rows(home: Path, event: str) -> list:  # type: ignore[type-arg]
    ledger = Ledger.open(home / "ledger.db")
    try:
        return list(ledger.records(Filters(events=(event,))))
    finally:
        ledger.close()
