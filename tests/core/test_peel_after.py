"""A rung that names the watch of its cause stands until that is GREEN; then it is tried without, as any other."""

from __future__ import annotations

from dataclasses import replace

from kernel_world import HOT, World, default_entries, entry, heat_rungs, make_world

from premortem.core.plan import BoundWatch
from premortem.core.risk import Watch
from premortem.parts.detectors import Threshold

WARM, LONG = 40, 400
CAUSE = BoundWatch("HEAT", "t/heat", Watch("the sun shines", "gauge", "sun", lambda: Threshold(yellow=0.5)), 1)


def _world() -> World:
    """The cause is its own signal: ``gauge`` is 1 while the fault is on, which only a YELLOW says."""
    cool = replace(heat_rungs()[0], peel_after="the sun shines")
    world = make_world(entries={**default_entries(), "HEAT": entry("HEAT", (cool,))})
    world.plan = replace(world.plan, watches=(world.plan.watches[0], CAUSE, world.plan.watches[2]))
    world.engine = type(world.engine)(world.plan)
    world.plant.healthy["gauge"] = lambda tick: float(world.plant.fault_on)
    return world.run(WARM)


def _waiting(world: World) -> World:
    world.plant.fault_on = True
    world.run(LONG, until="waiting for its cause to go")
    assert world.phase() == "waiting for its cause to go"
    return world


def test_it_stands_while_its_cause_is_seen_and_is_taken_off_once_it_is_gone() -> None:
    world = _waiting(_world())
    world.run(100)
    assert world.plant.in_force("cool")
    assert not world.plant.is_ill
    assert [r["rung"] for r in world.records("outcome") if r["verb"] == "wait"] == ["cool"]
    world.plant.fault_on = False
    world.run(LONG)
    assert world.phase() == "recovered"
    assert not world.plant.owners()


def test_recovery_is_on_record_before_the_cause_has_gone() -> None:
    world = _waiting(_world())
    assert [r["after_rung"] for r in world.records("recovered")] == ["cool"]
    assert not world.records("closed")


def test_what_comes_back_while_it_waits_is_a_relapse() -> None:
    world = _waiting(_world())
    world.plant.cures = frozenset()
    world.run(5)
    assert world.incident.relapses == 1
    assert world.turned == ["cool", "cool"]


def test_a_cause_that_comes_back_during_the_peel_is_waited_for_again() -> None:
    world = _waiting(_world())
    world.plant.fault_on = False
    world.run(LONG, until="peel verifying")
    world.plant.fault_on = True
    world.run(LONG, until="waiting for its cause to go")
    assert world.phase() == "waiting for its cause to go"
    assert world.plant.in_force("cool")
    world.plant.fault_on = False
    world.run(LONG)
    assert world.phase() == "recovered"
    assert not world.plant.owners()


def test_another_incident_need_not_wait_for_the_cause() -> None:
    world = _waiting(_world())
    world.plant.healthy["disk"] = lambda tick: 9.0 if world.plant.in_force("prune") else 1.5
    world.run(4)
    assert world.turned[-1] == "prune"
    assert world.plant.in_force("cool")
    world.plant.fault_on = False
    world.plant.healthy["disk"] = lambda tick: 9.0
    world.run(LONG)
    assert [i.phase.value for i in world.engine.incidents] == ["recovered", "recovered"]
    assert not world.plant.owners()


def test_a_restart_while_it_waits_goes_on_waiting() -> None:
    world = _waiting(_world()).restart()
    assert world.plant.in_force("cool")
    world.run(LONG, until="waiting for its cause to go")
    assert world.phase() == "waiting for its cause to go"
    world.plant.fault_on = False
    world.run(LONG)
    assert world.phase() == "recovered"


def test_silence_of_the_cause_is_not_its_end() -> None:
    world = _waiting(_world())
    world.plant.fault_on = False
    world.plant.healthy["gauge"] = lambda tick: None
    world.run(100)
    assert world.phase() == "waiting for its cause to go"
    assert world.plant.in_force("cool")


def test_a_rung_that_names_no_watch_of_its_entry_is_peeled_as_any_other() -> None:
    cool = replace(heat_rungs()[0], mends=HOT, peel_after="nothing of the kind")
    world = make_world(entries={**default_entries(), "HEAT": entry("HEAT", (cool,))}).run(WARM)
    world.plant.fault_on = True
    world.run(LONG, until="relapse watch")
    world.plant.fault_on = False
    world.run(LONG)
    assert world.phase() == "recovered"
