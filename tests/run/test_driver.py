"""The driver carries out what the kernel asks, and outlives whatever a control, a condition or a ledger does."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from premortem.core.action import Override
from premortem.core.clock import ticks
from premortem.core.engine import Engine
from premortem.core.evidence import Record
from premortem.core.ladder import Rung
from premortem.core.plan import BoundEntry, BoundWatch, Plan
from premortem.core.risk import Watch
from premortem.core.signal import Signal
from premortem.ledger.ledger import Filters, Receipt
from premortem.ledger.sqlite import SqliteLedger
from premortem.parts.detectors import Threshold
from premortem.run.driver import Driver
from premortem.run.patience import Patience
from premortem.run.sabotage.plant import Lever, Plant, PlantWorkload, steady, wavy

HOT = frozenset({"hot"})
SIGNALS = (Signal("heat", "K", banded=True),)


class Bench:
    """A driver on a plant with one rung, and a ledger on disk."""

    def __init__(
        self, folder: Path, *, ledger: type[SqliteLedger] = SqliteLedger, condition: str | None = None
    ) -> None:
        rung = Rung("cool", "valve", Override("scale", 0.5), HOT, confirm=3, deadline=ticks(9), condition=condition)
        self.valve = Lever(1.0)
        self.plant = Plant({"heat": wavy(1.0)}, {"heat": steady(3.0)}, {"valve": self.valve}, frozenset({"cool"}))
        self.plan = Plan(
            SIGNALS, (BoundWatch("H", "t/heat", Watch("hot", "heat", "hot", lambda: Threshold(red=2.0)), 0),),
            {"H": BoundEntry("H", (rung,), relapse_watch=ticks(5))}, {"valve": 1.0}, probation=10,
        )  # fmt: skip
        self.workload = PlantWorkload("test", SIGNALS, {"valve": self.valve})
        self.ledger = ledger(folder / "ledger.db", run="bench")
        self.marked: list[int] = []
        self.start()

    def start(self, patience_s: float = 10.0) -> None:
        self.engine = Engine(self.plan)
        self.driver = Driver(
            self.engine, self.workload, self.ledger, run="bench", patience_s=patience_s,
            mark_good=self.marked.append, clock=lambda: float(self.plant.tick),
        )  # fmt: skip

    def run(self, num_ticks: int) -> None:
        for _ in range(num_ticks):
            self.plant.advance()
            self.driver.tick(self.plant.row(SIGNALS, {}), self.plant.tick)

    def break_down(self, num_ticks: int = 60) -> str:
        self.run(30)
        self.plant.fault_on = True
        for _ in range(num_ticks):
            self.run(1)
            if self.events("recovered"):
                self.plant.fault_on = False
        return self.engine.incidents[0].phase.value

    def events(self, *names: str) -> list[Record]:
        return [row.record for row in self.ledger.records(Filters(events=names))]

    def faults(self) -> str:
        return " | ".join(str(r.data["what"]) for r in self.events("guard_fault"))


@pytest.fixture
def bench(tmp_path):
    made = []

    def make(**kind) -> Bench:
        made.append(Bench(tmp_path, **kind))
        return made[-1]

    yield make
    for one in made:
        one.ledger.close()


def test_every_action_has_an_intent_before_it_and_an_outcome_after_it(bench):
    one = bench()
    assert one.break_down() == "recovered"
    assert [r.data["verb"] for r in one.events("intent")] == ["turn", "undo"]
    assert one.ledger.unsettled() == []
    assert one.ledger.verify().ok


def test_a_verdict_is_told_only_after_it_stands_on_disk(bench):
    one = bench()
    heard = []
    one.driver.listen(lambda r: heard.append((r.event, r.event in [e.event for e in one.events(r.event)])))
    one.break_down()
    assert dict(heard)["recovered"]
    assert dict(heard)["closed"]


@pytest.mark.parametrize("verb", ["turn", "undo", "read"])
def test_a_control_that_raises_is_an_outcome_and_never_an_end(bench, verb):
    one = bench()

    def fail(*_: object) -> float:
        raise OSError("broken pipe")

    setattr(one.valve, verb, fail)
    assert one.break_down() == "handed over"


def test_a_control_that_hangs_is_unknown_and_left_alone(bench):
    one = bench()
    gate = threading.Event()
    one.start(patience_s=0.05)
    one.valve.turn = lambda *_: gate.wait() and None
    assert one.break_down() == "handed over"
    gate.set()
    details = [r.data["detail"] for r in one.events("outcome")]
    assert "no answer within 0.05 s" in details
    assert any("still hangs" in str(d) for d in details)


@pytest.mark.parametrize(("answer", "ended"), [(True, "recovered"), (False, "handed over"), (None, "handed over")])
def test_a_condition_has_three_answers(bench, answer, ended):
    one = bench(condition="sound")
    one.workload.conditions = {"sound": lambda: answer}
    assert one.break_down() == ended


def test_a_condition_that_the_workload_does_not_know_is_no_confirmation(bench):
    assert bench(condition="sound").break_down() == "handed over"


class Spooling(SqliteLedger):
    """The disk takes nothing, and the ledger says so."""

    def append(self, record: Record, **_: object) -> Receipt:
        return Receipt(0, "", committed=False)


class Raising(SqliteLedger):
    """Everything raises."""

    def append(self, record: Record, **_: object) -> Receipt:
        raise OSError("no disk")

    def intend(self, record: Record, **_: object) -> Receipt:
        raise OSError("no disk")

    def settle(self, receipt: Receipt, record: Record, **_: object) -> Receipt:
        raise OSError("no disk")

    def save_state(self, run: str, blob: object) -> Receipt:
        raise OSError("no disk")


class Lying(SqliteLedger):
    """Answers with the receipt of another row, which really stands there."""

    first: Receipt | None = None

    def append(self, record: Record, **_: object) -> Receipt:
        self.first = self.first or super().append(record)
        return self.first


class Hanging(SqliteLedger):
    """Never comes back."""

    gate = threading.Event()

    def append(self, record: Record, **_: object) -> Receipt:
        self.gate.wait()
        return Receipt(0, "", committed=False)


@pytest.mark.parametrize("kind", [Spooling, Raising, Lying, Hanging])
def test_without_evidence_there_is_no_verdict_and_the_workload_goes_on(bench, kind):
    one = bench(ledger=kind)
    one.start(patience_s=0.05 if kind is Hanging else 10.0)
    assert one.break_down() == "handed over"
    assert one.plant.tick == 90
    Hanging.gate.set()


class ShortOfMemory(SqliteLedger):
    """Reading a verdict back fails for want of memory, the first time each."""

    short = True

    def contains(self, receipt: Receipt) -> bool:
        self.short = not self.short
        if not self.short:
            raise MemoryError
        return super().contains(receipt)


def test_a_verdict_that_memory_was_short_to_read_back_is_read_again_and_written_once(bench):
    world = bench(ledger=ShortOfMemory)
    assert world.break_down() == "recovered"
    assert len(world.events("recovered")) == len(world.events("closed")) == 1


def test_a_listener_that_raises_is_dropped_and_reported_once(bench):
    one = bench()

    def listener(record: Record) -> None:
        raise RuntimeError("deaf")

    one.driver.listen(listener)
    assert one.break_down() == "recovered"
    assert one.faults().count("deaf") == 1


def test_a_kernel_that_fails_is_a_finding_and_the_workload_goes_on(bench):
    one = bench()
    one.run(30)
    one.engine.observe = lambda *_: 1 / 0
    one.run(5)
    assert one.faults().count("the kernel failed: ZeroDivisionError") == 1


def test_a_kernel_that_fails_on_an_outcome_is_a_finding_too(bench):
    one = bench()
    one.run(30)
    one.engine.outcome = lambda *_: 1 / 0
    one.plant.fault_on = True
    one.run(5)
    assert one.faults().count("the kernel failed: ZeroDivisionError") == 1


def test_a_checkpoint_that_earned_its_mark_is_marked_and_a_failure_to_mark_is_reported(bench):
    one = bench()
    one.run(20)
    one.engine.candidate(20)
    one.run(11)
    assert one.marked == [20]
    one.driver._mark_good = lambda tick: 1 / 0
    one.engine.candidate(one.plant.tick)
    one.run(11)
    assert "was not marked good" in one.faults()


def test_a_crash_between_intent_and_outcome_is_settled_by_read_back_on_resume(bench):
    one = bench()
    one.run(30)
    one.plant.fault_on = True

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    one.driver._settle = crash
    with pytest.raises(KeyboardInterrupt):
        one.run(10)
    assert len(one.ledger.unsettled()) == 1
    one.start()
    one.driver.resume(one.ledger.load_state("bench"))
    assert one.ledger.unsettled() == []
    settled = [r for r in one.events("outcome") if r.data["detail"] == "settled by read-back after a restart"]
    assert settled[0].data["value"] == 0.5
    assert one.engine.incidents[0].tried == {"cool": 1}
    for _ in range(60):
        one.run(1)
        one.plant.fault_on = not one.events("recovered")
    assert one.engine.incidents[0].phase.value == "recovered"
    assert [r.data["verb"] for r in one.events("intent")].count("turn") == 1


def test_unsettled_intents_that_cannot_be_read_are_reported(bench):
    one = bench()
    one.break_down()
    one.ledger.unsettled = lambda run=None: 1 / 0
    one.start()
    one.driver.resume(one.engine.state())
    assert "unsettled intents could not be read" in one.faults()


def test_a_record_of_the_drivers_own_is_written(bench):
    one = bench()
    one.driver.note(Record("run", "", None, 0, 0.0, {"what": "began"}))
    assert one.events("run")[0].data == {"what": "began"}


def test_a_lane_that_hangs_does_not_block_another():
    gate = threading.Event()
    patience = Patience(0.05)
    assert not patience.run("one", gate.wait).came
    assert patience.run("two", lambda: 7).value == 7
    assert "still hangs" in patience.run("one", lambda: 7).why
    gate.set()
