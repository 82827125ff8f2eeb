"""A limit that is foreseen does not wait for a verification: what comes last has its turn before it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_world import DISK, World, entry, heat_rungs, make_world, watches

from premortem.core.action import Override
from premortem.core.clock import ticks
from premortem.core.detector import Level
from premortem.core.ladder import Rung
from premortem.core.plan import BoundWatch
from premortem.core.risk import Watch
from premortem.parts.detectors import Exhaustion

WARM = 40
BEGAN = 0.1
STOP = Rung("stop", "run", Override("choose", "stopped"), frozenset({"*"}), ends_run=True)


def prune(name: str = "prune", control: str = "shelf", by: float = 3.0, settle: int = 1) -> Rung:
    """A rung with all the patience in the world."""
    return Rung(name, control, Override("cap", by), DISK, settle=ticks(settle), confirm=4, deadline=ticks(10_000))


def filling(pace: float, *rungs: Rung, contingency: Rung | None = STOP) -> World:
    """A store that fills up from tick 40 on, at 1.0 it bursts; ``prune`` halts it where the test says so."""
    entries = {
        "HEAT": entry("HEAT", heat_rungs()),
        "DISK": entry("DISK", rungs or (prune(),), contingency=contingency),
    }
    growth = Watch("growth", "disk", "full", lambda: Exhaustion(horizon=100, critical=25))
    world = make_world(entries=entries, watches=(*watches()[:2], BoundWatch("DISK", "t/disk", growth, 2)))
    world.plant.healthy["disk"] = lambda tick: BEGAN + pace * max(0, tick - WARM)
    return world


def until_it_bursts(pace: float) -> int:
    return WARM + int((1.0 - BEGAN) / pace)


@settings(max_examples=60, deadline=None)
@given(pace=st.floats(0.0005, 0.035), count=st.integers(1, 3))
def test_whatever_the_pace_the_contingency_has_its_turn_before_the_limit(pace: float, count: int) -> None:
    levers = [("prune", "shelf", 3.0), ("again", "valve", 0.5), ("and again", "shelf", 2.0)]
    world = filling(pace, *(prune(*lever) for lever in levers[:count]))
    world.run(until_it_bursts(pace))
    assert world.turned[-1] == "stop"
    assert world.phase() == "handed over"


@settings(max_examples=30, deadline=None)
@given(pace=st.floats(0.001, 0.02))
def test_a_rung_may_use_half_of_what_is_left_and_no_more(pace: float) -> None:
    world = filling(pace)
    world.run(until_it_bursts(pace), until="verifying")
    left = until_it_bursts(pace) - world.plant.tick
    world.run(left, until="handed over")
    used = left - (until_it_bursts(pace) - world.plant.tick)
    assert 1 <= used <= left / 2 + 2
    assert "observations are left to the limit" in world.records("verified")[-1]["why"]


def test_a_rung_whose_first_fresh_observation_would_come_too_late_is_passed_over() -> None:
    world = filling(0.03, prune(settle=20))
    world.run(until_it_bursts(0.03))
    assert world.turned == ["stop"]
    assert "too late" in world.records("verified")[0]["why"]


def test_a_rung_that_halts_the_growth_keeps_all_of_its_time_and_recovers() -> None:
    world = filling(0.01)
    growing = world.plant.healthy["disk"]
    seen = [0.0]

    def held(tick: int) -> float:
        seen[0] = seen[0] if world.plant.in_force("prune") else growing(tick)
        return seen[0]

    world.plant.healthy["disk"] = held
    world.run(300, until="peel verifying")
    assert world.incident.recovered_after == "prune"


def test_where_nothing_comes_after_it_a_rung_is_verified_to_its_deadline() -> None:
    world = filling(0.01, contingency=None)
    world.run(until_it_bursts(0.01) - 1)
    assert world.phase() == "verifying"


def test_a_limit_that_is_near_interrupts_the_verification_of_another_entry() -> None:
    patient = tuple(
        Rung(r.name, r.control, r.override, r.mends, r.relation, r.tries, ticks(1), 4, ticks(400))
        for r in heat_rungs()
    )  # fmt: skip
    found = filling(0.01).plan
    entries = {**found.entries, "HEAT": entry("HEAT", patient)}
    world = make_world(cures=("restore",), entries=entries, watches=found.watches)
    world.plant.healthy["disk"] = lambda tick: BEGAN + 0.01 * max(0, tick - WARM - 20)
    world.run(WARM)
    world.plant.fault_on = True
    world.run(20)
    assert world.incident.entry == "HEAT"
    assert world.phase(1) == "verifying"
    world.run(until_it_bursts(0.01) - WARM)
    disk = world.engine.incidents[1]
    assert disk.level is Level.CRITICAL
    assert world.turned[-1] == "stop"
    assert "prune" in world.turned


@pytest.mark.parametrize("values", [0, 30, 200])
def test_what_a_restart_finds_again_foresees_as_before(values: int) -> None:
    one, other = Exhaustion(horizon=100), Exhaustion(horizon=100)
    for i in range(values):
        one.observe(0.004 * i)
    other.load(one.state())
    assert other.left() == one.left()
