"""A request that did not help is taken back before the next rung; once a run was ended nothing is turned any more."""

from __future__ import annotations

from dataclasses import replace

from kernel_world import default_entries, entry, heat_rungs, make_world

from premortem.core.action import Outcome, Override
from premortem.core.ladder import Rung

WARM = 40


def entries():
    *first, restore = heat_rungs()
    again = replace(restore, taken_back=True, tries=2)
    stop = Rung("stop", "run", Override("choose", "stopped"), frozenset({"*"}), ends_run=True)
    return default_entries() | {"HEAT": entry("HEAT", (*first, again), contingency=stop)}


def heated(world, num_ticks=500, until="handed over"):
    world.run(WARM)
    world.plant.fault_on = True
    return world.run(num_ticks, until=until)


def undone(world):
    return [c.record.data["rung"] for c in world.commands if c.verb == "undo"]


def test_a_restore_that_did_not_help_is_undone_and_read_back_before_the_next_rung():
    world = heated(make_world(cures=(), entries=entries()))
    assert world.turned[-3:] == ["restore", "restore", "stop"]
    assert undone(world).count("restore") == 2
    verbs = [(c.verb, c.record.data.get("rung", "")) for c in world.commands if c.verb in ("turn", "undo", "read")]
    first = verbs.index(("turn", "restore"))
    assert [verb for verb, _ in verbs[first : first + 5]] == ["turn", "read", "undo", "read", "turn"]
    assert world.plant.levers["weights"].read() == "nothing"


def test_a_restore_that_helped_is_not_undone():
    world = make_world(cures=("restore",), entries=entries())
    heated(world, until="recovered")
    assert world.incident.recovered_after == "restore"
    assert "restore" not in undone(world)


def test_a_restore_that_cannot_be_taken_back_hands_over_its_setting_is_unknown():
    world = make_world(cures=(), entries=entries())
    world.answer = lambda c: (
        Outcome(False) if c.verb == "undo" and c.target.control == "weights" else world.do(c)
    )  # fmt: skip
    heated(world)
    assert "'restore' could not be undone" in world.incident.reason


def test_a_process_that_dies_while_taking_back_does_it_again():
    world = make_world(cures=(), entries=entries())
    world.answer = lambda c: None if c.verb == "undo" and c.target.control == "weights" else world.do(c)
    world.run(WARM)
    world.plant.fault_on = True
    world.run(500, until="held back")
    assert world.incident.phase.value == "undoing"
    world.answer = None
    world.restart(levers_too=False)
    world.run(500, until="handed over")
    assert world.turned[-1] == "stop"
    assert world.plant.levers["weights"].read() == "nothing"


def test_what_waited_behind_the_end_of_a_run_is_not_climbed_in_it():
    world = make_world(cures=(), entries=entries())
    world.run(WARM)
    world.plant.fault_on = True
    world.run(20)
    world.plant.healthy["disk"] = world.plant.sick["disk"] = lambda tick: 1.0
    world.run(500, until="handed over").run(50)
    assert world.turned[-1] == "stop"
    assert "prune" not in world.turned
    assert world.phase(2) == "queued"
