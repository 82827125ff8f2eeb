"""Slow inference: the rung that fits helps, a silent worker is only restarted, and the fallback outlasts its cause."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf, nan
from pathlib import Path

import pytest
import torch

from premortem import Guard
from premortem.core.action import Control, Setting
from premortem.core.detector import Level
from premortem.core.engine import Engine
from premortem.core.errors import ConfigError
from premortem.core.evidence import Record
from premortem.ledger.ledger import Ledger
from premortem.parts.controls import HeldSetting, OneShotRequest
from premortem.risks.serve.slow_inference.causes import Wedged, deepened
from premortem.risks.serve.slow_inference.crowd import mazes
from premortem.risks.serve.slow_inference.scene import CONFIG, SIZE, seeded_model
from premortem.risks.serve.slow_inference.windows import AgreeingWindows
from premortem.run.bind import bind
from premortem.run.driver import Driver
from premortem.stages.serve.service import Service, ServiceConfig, running
from premortem.stages.serve.service.latency_baseline import LatencyBaseline
from premortem.stages.serve.service.workload import SIGNALS, ServiceWorkload
from premortem.stages.train.hrm.card import save_model

GREEN, YELLOW, RED = Level.GREEN, Level.YELLOW, Level.RED
QUICK = {"serve/slow-inference": {"deadline": 12, "restart_due": 8}}


@dataclass
class Plant:
    """The signals and controls of a service, with a slowness that only ``cure`` ends: no model, no time."""

    kind = "service"
    signals = SIGNALS
    witnesses: Mapping[str, str] = field(default_factory=lambda: {"depth": "depth_in_force"})
    conditions: Mapping[str, Callable[[], bool | None]] = field(default_factory=dict)
    cure: str = ""
    slow: bool = False
    silent: bool = False
    model_is_slow: bool = False
    warm_in: int = 0

    def __post_init__(self) -> None:
        self.depth, self.fallback = HeldSetting(8.0), HeldSetting(0.0)
        self._tick = 0
        self.controls: Mapping[str, Control] = {
            "depth": self.depth,
            "cache": OneShotRequest(lambda request: self._done("cache"), lambda: True),
            "worker": OneShotRequest(self._restart, lambda: self._tick >= self.warm_in),
            "fallback": self.fallback,
        }

    def _restart(self, request: str) -> None:
        self.warm_in = self._tick + 4
        self._done("worker")

    def _done(self, what: str) -> None:
        if self.cure == what:
            self.slow = self.silent = False

    def row(self) -> list[float | None]:
        self._tick += 1
        eased = self.cure == "depth" and _number(self.depth.value) <= 2.0
        is_slow = (self.slow or self.model_is_slow) and self.fallback.value != 1.0 and not eased
        ratio = (2.0 if is_slow else 1.0) + 0.001 * (self._tick % 7)  # each window has a value of its own
        said = None if self.silent and self.fallback.value != 1.0 else ratio
        values: dict[str, float | None] = {
            "slowdown_p50": said, "slowdown_p95": said, "oldest_s": 5.0 if said is None else 0.02,
            "probe_slowdown": 2.0 if self.model_is_slow else 0.9, "depth_in_force": _number(self.depth.value),
        }  # fmt: skip
        return [values.get(signal.name) for signal in SIGNALS]


def _number(value: Setting) -> float:
    assert not isinstance(value, str)
    return value


@dataclass
class Room:
    """A plant under the register's own entry."""

    plant: Plant
    driver: Driver
    records: list[Record] = field(default_factory=list)
    tick: int = 0

    def run(self, ticks: int) -> None:
        for _ in range(ticks):
            self.tick += 1
            self.driver.tick(self.plant.row(), self.tick)

    def events(self, name: str) -> list[Record]:
        return [record for record in self.records if record.event == name]

    @property
    def turned(self) -> list[str]:
        return [str(r.data["rung"]) for r in self.events("intent") if r.data.get("verb") == "turn"]


@pytest.fixture
def room(tmp_path: Path) -> Room:
    guard, plant = Guard("hrm", entries=("HRM-9.2.1",), params=QUICK), Plant()
    driver = Driver(Engine(bind(guard.active, plant, "hrm")), plant, Ledger.open(tmp_path / "l.db", run="t"), run="t")
    room = Room(plant, driver)
    driver.listen(room.records.append)
    room.run(20)
    return room


DEPTH, CACHES, RESTART = "reduce computation depth", "clear caches", "restart the model"
PPO = "fall back to the PPO policy"


def test_a_healthy_service_raises_nothing(room: Room) -> None:
    room.run(300)
    assert room.events("finding") == []
    assert room.events("opened") == []


@pytest.mark.parametrize(
    ("cure", "climbed"),
    [("depth", [DEPTH, DEPTH]), ("cache", [DEPTH, DEPTH, CACHES]), ("worker", [DEPTH, DEPTH, CACHES, RESTART])],
)
def test_slowness_is_climbed_to_the_rung_that_fits(room: Room, cure: str, climbed: list[str]) -> None:
    room.plant.cure, room.plant.slow = cure, True
    while not room.events("recovered") and room.tick < 400:
        room.run(1)
    assert room.turned == climbed
    assert [r.data["after_rung"] for r in room.events("recovered")] == [climbed[-1]]
    room.plant.slow = False
    room.run(120)
    assert [r.data["verdict"] for r in room.events("closed")] == ["recovered"]
    assert room.plant.depth.value == 8.0, "the depth was given back"


def test_a_silent_worker_is_restarted_and_nothing_else_is_tried(room: Room) -> None:
    room.plant.cure, room.plant.silent = "worker", True
    while not room.events("recovered") and room.tick < 200:
        room.run(1)
    assert room.turned == [RESTART]
    passed = [r.data["rung"] for r in room.events("verified") if r.data["verdict"] == "passed over"]
    assert passed == [DEPTH, CACHES]


def test_the_fallback_stands_until_the_model_is_fast_again(room: Room) -> None:
    room.plant.model_is_slow = True
    while not room.events("recovered") and room.tick < 400:
        room.run(1)
    assert room.turned == [DEPTH, DEPTH, CACHES, RESTART, PPO]
    room.run(200)
    assert room.plant.fallback.value == 1.0
    assert room.events("closed") == []
    room.plant.model_is_slow = False
    room.run(200)
    assert (room.plant.fallback.value, room.plant.depth.value) == (0.0, 8.0)
    assert [r.data["verdict"] for r in room.events("closed")] == ["recovered"]


def test_who_is_turned_away_is_slow_whatever_the_others_were_told(room: Room) -> None:
    row, away = room.plant.row, 0.4
    at = [signal.name for signal in SIGNALS].index("refused_share")

    def refusing() -> list[float | None]:
        values = row()
        values[at] = away if _number(room.plant.depth.value) > 2.0 else 0.0
        return values

    room.plant.row = refusing  # type: ignore[method-assign]
    while not room.events("recovered") and room.tick < 200:
        room.run(1)
    assert room.turned == [DEPTH, DEPTH]


def test_where_nothing_helps_a_person_is_asked(room: Room) -> None:
    room.plant.slow = True
    room.plant.fallback._apply = lambda value: (_ for _ in ()).throw(RuntimeError("no such policy"))
    room.run(300)
    assert [r.data["why"] for r in room.events("handed_over")] == ["the ladder is spent"]


def test_a_restart_that_never_comes_is_passed(room: Room) -> None:
    room.plant.silent = True
    room.plant.warm_in = 10**9
    room.plant._restart = lambda request: None  # type: ignore[method-assign]
    room.plant.controls["worker"]._carry_out = lambda request: None  # type: ignore[attr-defined]
    while not room.events("recovered") and room.tick < 200:
        room.run(1)
    assert room.turned == [RESTART, PPO]


def test_faster_is_reported_and_never_mitigated(room: Room) -> None:
    row = room.plant.row
    fast = {"slowdown_p50", "slowdown_p95"}

    def faster() -> list[float | None]:
        pairs = zip(SIGNALS, row(), strict=True)
        return [value if signal.name not in fast or value is None else 0.5 * value for signal, value in pairs]

    room.plant.row = faster  # type: ignore[method-assign]
    room.run(100)
    assert [(r.data["symptom"], r.data["level"]) for r in room.events("finding")] == [("faster", "YELLOW")]
    assert room.events("opened") == []


# --- windows -------------------------------------------------------------------------------------


def test_one_slow_window_is_noise_and_a_value_that_stands_is_one_window() -> None:
    two_of_two = AgreeingWindows(bound=1.3, enough=2, of=2)
    assert [two_of_two.observe(v) for v in (1.0, 1.0, 1.1, 1.5, 1.5, 1.5)] == 6 * [GREEN]
    assert [two_of_two.observe(v) for v in (1.6, 1.6, 1.2)] == [RED, RED, GREEN]


def test_several_windows_accuse_and_a_single_lucky_one_clears_nobody() -> None:
    detector = AgreeingWindows(bound=1.3, enough=3, of=3, acquit=2)
    values = (1.0, 1.1, 1.5, 1.6, 1.7, 1.2, 1.8, 1.1, 1.11, 1.9, 1.12)
    levels = [*4 * [GREEN], *4 * [RED], *3 * [GREEN]]
    assert [detector.observe(value) for value in values] == levels
    with pytest.raises(ValueError, match="to acquit"):
        AgreeingWindows(bound=1.3, enough=1, of=2, acquit=3)


@pytest.mark.parametrize(("value", "level"), [(nan, None), (inf, RED)])
def test_what_is_no_number_is_no_window(value: float, level: Level | None) -> None:
    detector = AgreeingWindows(bound=1.3, enough=1, of=3)
    assert detector.observe(value) is level
    assert len(detector.verdicts) == (level is RED)


def test_windows_survive_a_restart() -> None:
    detector, again = (AgreeingWindows(bound=1.3, enough=2, of=3) for _ in range(2))
    for value in (1.0, 2.0):
        detector.observe(value)
    again.load(json.loads(json.dumps(detector.state())))
    assert [again.observe(2.0), again.observe(2.1)] == [detector.observe(2.0), detector.observe(2.1)]
    with pytest.raises(KeyError):
        again.load({"last": 1.0, "accused": 0.0, "count": 2.0, "verdicts.0": 0.0})


def test_below_turns_the_direction_and_mild_is_yellow() -> None:
    faster = AgreeingWindows(bound=0.77, enough=2, of=2, mild=1.0, below=1.0)
    assert [faster.observe(v) for v in (1.0, 0.5, 0.6, 9.0)] == [GREEN, GREEN, YELLOW, GREEN]


@pytest.mark.parametrize(
    ("params", "told"),
    [({"excess": 0.0}, "above 0"), ({"silent_s": -1.0}, "above 0"), ({"depth_by": 1.0}, "between 0 and 1"),
     ({"turned_away": 0.0}, "between 0 and 1"),
     ({"p95_enough": 4}, "enough <= of"), ({"exceeds": 0.3}, "excess")],
)  # fmt: skip
def test_parameters_that_cannot_be_are_refused(params: dict[str, float], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Guard("hrm", entries=("HRM-9.2.1",), params={"serve/slow-inference": params})


# --- the real thing, thin ------------------------------------------------------------------------


def test_a_stopped_worker_is_replaced_and_every_request_is_settled(tmp_path: Path) -> None:
    """A real worker process, stopped by the kernel; time-outs are long, so nobody is refused for the machine's sake."""
    bundle = save_model(tmp_path / "m", 1, seeded_model(CONFIG, 0), task="maze", size=SIZE)
    config = ServiceConfig(timeout_s=120, max_wait_s=120, silent_s=120)

    async def main() -> list[Record]:
        heard: list[Record] = []
        async with running(Service([bundle], config)) as service:
            workload = ServiceWorkload(service, lambda key: LatencyBaseline(tmp_path / "b.json", key))
            patient = {"serve/slow-inference": {"restart_due": 2000, "deadline": 2000}}
            guard = Guard("hrm", entries=("HRM-9.2.1",), params=patient)
            async with guard.watching(workload, home=tmp_path / "home") as watch:
                watch.listen(heard.append)
                await service.answer(mazes(0)[0])
                with Wedged(service) as fault:
                    waiting = [asyncio.ensure_future(service.answer(maze)) for maze in mazes(0)[1:9]]
                    while not any(r.data.get("verdict") == "helped" or r.event == "handed_over" for r in heard):
                        await watch.observe(workload.row())
                        await asyncio.sleep(0.05)
                    replies = await asyncio.gather(*waiting)
                    assert fault.observed().holds
                assert {reply.answer.load for reply in replies} == {2}, "each was asked of the new worker"
                assert fault.gone().holds
        return heard

    heard = asyncio.run(main())
    turned = [r.data["rung"] for r in heard if r.event == "intent" and r.data.get("verb") == "turn"]
    assert turned == [RESTART]


def test_the_heavier_model_says_what_the_lighter_one_says() -> None:
    model = seeded_model(CONFIG, 3).eval()
    deep = deepened(model, 4).eval()
    assert sum(p.numel() for p in deep.parameters()) > 2 * sum(p.numel() for p in model.parameters())
    puzzles = torch.tensor([list(maze) for maze in mazes(0)[:8]])
    shape = (8, SIZE * SIZE + 1, CONFIG.hidden_size)
    with torch.no_grad():
        one = model.segment(model.high_start.expand(shape), model.low_start.expand(shape), puzzles)
        other = deep.segment(deep.high_start.expand(shape), deep.low_start.expand(shape), puzzles)
    assert torch.allclose(one.logits, other.logits, atol=1e-3, rtol=1e-3)


def test_clients_ask_the_same_of_every_arm_of_a_seed() -> None:
    assert mazes(1)[:50] == mazes(1)[:50]
    assert mazes(1)[:50] != mazes(2)[:50]
