"""Memory pressure: the rung that fits brings memory back, no accepted request is lost, and emergency mode ends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from premortem import Guard
from premortem.core.engine import Engine
from premortem.core.errors import ConfigError
from premortem.core.evidence import Record
from premortem.ledger.ledger import Ledger
from premortem.risks.serve.memory_pressure.drill import CONFIG, LeakedActivations, UnboundCache
from premortem.run.bind import bind
from premortem.run.driver import Driver
from premortem.stages.serve import InferenceWorkload, Reasoner, Refused, Settings, Solver, hand_back
from premortem.stages.serve.clients import puzzles, seeded_bundle
from premortem.stages.serve.meter import GB, HostMemory

ROOM_MB = 60
"""From what a healthy round takes at most to RED."""
MB = 1e6


@dataclass(slots=True)
class Room:
    """A worker under guard, a round at a time; memory is really measured, its bounds fit what is held at the start."""

    solver: Solver
    driver: Driver
    workload: InferenceWorkload
    records: list[Record] = field(default_factory=list)
    unanswered: int = 0
    refused: int = 0
    tick: int = 0

    def round(self, rate: int = 128) -> None:
        self.tick += 1
        waiting = []
        for puzzle in puzzles_of(rate, self.tick):
            try:
                waiting.append(self.solver.submit(puzzle))
            except Refused:
                self.refused += 1
        while self.solver.work():
            pass
        self.unanswered += sum(not future.done() or future.exception() is not None for future in waiting)
        self.driver.tick(self.workload.row(), self.tick)

    def events(self, name: str) -> list[Record]:
        return [record for record in self.records if record.event == name]

    @property
    def turned(self) -> list[str]:
        return [str(r.data["rung"]) for r in self.events("intent") if r.data.get("verb") == "turn"]


SPLIT = puzzles()


def puzzles_of(rate: int, step: int) -> list[bytes]:
    asked, _ = SPLIT.batches(rate, seed=0).batch(step)
    return [bytes(puzzle.tolist()) for puzzle in asked]


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    solver = Solver(Reasoner(seeded_bundle(tmp_path / "model", CONFIG, 0), CONFIG), Settings(cache=256, batch=256))
    hand_back()  # what tests before this one left unused in the heap would swallow any growth
    meter = HostMemory()
    workload = InferenceWorkload(solver, meter)
    for step in range(1000, 1008):
        for puzzle in puzzles_of(128, step):
            solver.submit(puzzle)
        solver.work()
    now = (meter.read().used_gb or 0.0) * GB / MB
    bounds = {"red_gb": (now + ROOM_MB) / 1e3, "target_gb": (now + 0.6 * ROOM_MB) / 1e3}
    bounds |= {"red_share": 1.0, "target_share": 1.0, "horizon": 1}  # whatever else runs on this machine
    guard = Guard("hrm", entries=("HRM-9.1.2",), params={"serve/memory-pressure": bounds})
    ledger = Ledger.open(tmp_path / "ledger.db", run="test")
    driver = Driver(Engine(bind(guard.active, workload, "hrm")), workload, ledger, run="test")
    room = Room(solver, driver, workload)
    driver.listen(room.records.append)
    yield room
    ledger.close()


def run(room: Room, rounds: int) -> None:
    for _ in range(rounds):
        room.round()


def all_answered(room: Room) -> bool:
    counts = room.solver.counts
    return room.unanswered == 0 and counts.lost == 0 and counts.answered == counts.accepted


def test_a_healthy_worker_raises_nothing(room: Room) -> None:
    run(room, 60)
    assert room.events("opened") == []
    assert all_answered(room)
    assert room.refused == 0


def test_a_cache_without_bound_is_cleared(room: Room) -> None:
    fault = UnboundCache(room.solver)
    run(room, 5)
    with fault:
        while not room.events("recovered") and room.tick < 120:
            room.round()
        assert fault.observed().holds
    assert fault.gone().holds
    assert room.turned == ["clear the inference cache"]
    assert [r.data["after_rung"] for r in room.events("recovered")] == ["clear the inference cache"]
    assert all_answered(room)


def test_activations_that_a_hook_keeps_go_with_the_model(room: Room) -> None:
    fault = LeakedActivations(room.solver)
    run(room, 5)
    with fault:
        while not room.events("recovered") and room.tick < 120:
            room.round()
        assert fault.observed().holds
        assert fault.gone().holds, "the reload took the hooks away, before the fault was removed"
    assert room.turned[0] == "clear the inference cache"
    assert room.turned[-1] == "reload the model"
    assert [r.data["after_rung"] for r in room.events("recovered")] == ["reload the model"]
    passed = [r.data["rung"] for r in room.events("verified") if r.data["verdict"] == "passed over"]
    assert passed == ["recompute activations"], "a worker does not train: reported, never assumed"
    assert all_answered(room)
    run(room, 60)
    assert [r.data["verdict"] for r in room.events("closed")] == ["recovered"]
    assert room.solver.batch_cap == 256, "the smaller batch was taken off again"


def test_when_all_else_fails_new_work_is_refused_until_memory_is_back(room: Room) -> None:
    """Something outside the worker's reach holds memory: no rung of the ladder frees it."""
    run(room, 5)
    ballast = [bytearray(int((ROOM_MB + 60) * MB))]
    ballast[0][::4096] = b"x" * len(ballast[0][::4096])
    while room.solver.admission == "open" and room.tick < 60:
        room.round()
    assert room.turned[-1] == "emergency mode"
    before = room.refused
    run(room, 10)
    assert room.refused > before
    assert all_answered(room), "what was accepted is finished all the same"
    ballast.clear()
    while room.solver.admission != "open" and room.tick < 140:
        room.round()
    assert room.solver.admission == "open", "it ends by itself"
    run(room, 60)
    assert [r.data["verdict"] for r in room.events("closed")] == ["recovered"]


def test_where_new_work_is_what_brings_the_pressure_the_door_stays_shut(room: Room) -> None:
    """Each accepted request's answer drags memory along that no rung frees: the open door is the cause."""
    run(room, 5)
    ballast: list[bytearray] = []
    while not (room.events("held") or room.events("handed_over")) and room.tick < 200:
        if room.solver.admission != "open":
            ballast.clear()
        elif not ballast:
            ballast.append(bytearray(b"x") * int((ROOM_MB + 60) * MB))
        room.round()
    assert [r.data["verdict"] for r in room.events("held")] == ["recovered (held)"]
    assert room.solver.admission == "emergency", "a person opens it"
    assert all_answered(room)


def test_bounds_that_contradict_each_other_are_refused() -> None:
    guard = Guard("hrm", entries=("HRM-9.1.2",))
    for params, told in (({"target_gb": 4.0}, "0 < target <= red"), ({"batch_by": 1.5}, "between 0 and 1")):
        with pytest.raises(ConfigError, match=told):
            Guard("hrm", entries=("HRM-9.1.2",), params={"serve/memory-pressure": params})
    assert [e.id for e in guard.active] == ["HRM-9.1.2"]
