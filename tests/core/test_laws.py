"""Each law of the kernel, as a scenario on a plant whose health really depends on its settings."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from kernel_world import DISK, HOT, default_entries, entry, heat_rungs, make_world, watches

from premortem.core.action import Outcome, Override, same_setting
from premortem.core.clock import seconds, ticks
from premortem.core.detector import Level
from premortem.core.ladder import Relation, Rung
from premortem.core.plan import BoundWatch
from premortem.core.risk import Watch
from premortem.parts.detectors import Heartbeat

WARM = 40
HEATED = 500


def heated(world, num_ticks=HEATED, until="recovered"):
    """A healthy plant whose fault comes, and stays until recovery is judged."""
    world.run(WARM)
    world.plant.fault_on = True
    world.run(num_ticks, until="peel verifying")
    world.plant.fault_on = False
    return world.run(num_ticks, until=until)


# --- law 1: a verdict only from verification -------------------------------------------------


def test_law_1_an_action_that_ran_but_changed_nothing_fails_and_is_undone_before_the_next_rung():
    world = make_world(cures=("cool", "restore"))
    world.answer = lambda c: Outcome(True) if c.verb == "turn" and c.target.control == "valve" else world.do(c)
    world.run(WARM)
    world.plant.fault_on = True
    world.run(HEATED, until="recovered")
    assert world.turned[:3] == ["cool", "cool", "try the other pump"]
    assert world.incident.recovered_after == "restore"
    assert not world.plant.owners() - {o for o in world.plant.owners() if o.rung == "restore"}


def test_law_1_a_symptom_that_comes_back_in_the_relapse_watch_is_no_recovery():
    world = make_world()
    world.run(WARM)
    world.plant.fault_on = True
    world.run(HEATED, until="relapse watch")
    world.plant.cures = frozenset({"restore"})
    world.run(HEATED, until="recovered")
    assert "relapse" in world.events
    assert world.incident.recovered_after == "restore"
    assert world.incident.relapses == 1


def test_law_1_a_setting_that_slips_in_the_relapse_watch_is_seen_by_its_witness_although_all_is_green():
    world = make_world()
    world.run(WARM)
    world.plant.fault_on = True
    world.run(HEATED, until="relapse watch")
    world.plant.fault_on = False  # healthy by itself: only the setting is wrong
    valve = world.plant.levers["valve"]
    valve.undo(valve.stack.owners[0])
    world.run(2)
    assert "no longer in force" in world.records("relapse")[0]["why"]


def test_law_1_every_setting_is_read_once_more_before_the_verdict():
    world = make_world(cures=("try the other pump",))
    world.run(WARM)
    world.plant.fault_on = True
    world.run(HEATED, until="relapse watch")
    world.plant.fault_on = False
    pump = world.plant.levers["pump"]  # no witness shows this one
    pump.undo(pump.stack.owners[0])
    world.run(11)
    assert "recovered" not in world.events
    assert "no longer in force" in world.records("relapse")[0]["why"]


# --- law 2: silence is never health ----------------------------------------------------------


def test_law_2_an_inconclusive_verification_neither_climbs_nor_closes_and_is_handed_over_at_its_deadline():
    world = make_world()
    world.run(WARM)
    world.plant.fault_on = True
    world.run(HEATED, until="verifying")
    world.plant.silent.add("heat")
    world.run(5)
    assert world.phase() == "verifying"
    world.run(30)
    assert world.phase() == "handed over"
    assert world.turned == ["cool"]
    assert "silence is not health" in world.incident.reason


def test_law_2_a_few_green_observations_in_long_silence_are_inconclusive_and_not_a_failure():
    world = make_world()
    world.run(WARM)
    world.plant.fault_on = True
    world.run(HEATED, until="verifying")
    world.run(2)
    world.plant.silent.add("heat")
    world.run(30)
    assert world.phase() == "handed over"
    assert world.turned == ["cool"]


def test_law_2_a_relapse_watch_in_silence_is_handed_over():
    world = make_world()
    world.run(WARM)
    world.plant.fault_on = True
    world.run(HEATED, until="relapse watch")
    world.plant.silent.add("heat")
    world.run(50)
    assert world.phase() == "handed over"
    assert "recovered" not in world.events


def test_law_2_a_silent_witness_of_a_setting_in_force_holds_the_verification():
    world = make_world()
    world.run(WARM)
    world.plant.fault_on = True
    world.run(HEATED, until="verifying")
    world.plan.witnesses["valve"]
    world.plant.silent.add("valve_seen")
    world.run(40)
    assert world.phase() == "handed over"


@pytest.mark.parametrize("value", [None, math.nan])
def test_law_2_a_required_signal_that_stays_missing_is_reported_once_and_is_not_health(value):
    world = make_world()
    world.plant.healthy["heat"] = lambda tick: value
    world.run(60)
    told = [r for r in world.records("unwatched") if r["signal"] == "heat"]
    assert len(told) == 1
    assert not world.engine._healthy
    world.plant.healthy["heat"] = lambda tick: 1.0
    world.run(5)
    assert world.engine._healthy
    world.plant.healthy["heat"] = lambda tick: value
    world.run(60)
    assert len([r for r in world.records("unwatched") if r["signal"] == "heat"]) == 2


def test_law_2_silence_under_demand_is_an_observation_of_a_heartbeat():
    beat = BoundWatch("HEAT", "t/heat", Watch("beat", "gauge", "hot", lambda: Heartbeat(red_s=20.0)), 1)
    world = make_world()
    world = make_world(watches=(*watches(), beat))
    world.run(WARM)
    world.plant.silent.add("gauge")
    world.run(15)
    assert not world.engine.incidents
    world.run(10)
    assert world.incident.symptoms == {"hot"}


def test_law_2_a_queued_incident_whose_signal_went_silent_does_not_close():
    world = make_world()
    world.run(WARM)
    world.plant.fault_on = True
    world.plant.sick["disk"] = lambda tick: 1.0
    world.run(3)
    world.plant.sick.pop("disk")
    world.plant.silent.add("disk")
    world.plant.fault_on = False
    world.run(HEATED)
    assert [i.phase.value for i in world.engine.incidents if i.entry == "DISK"] == ["handed over"]


# --- law 3: rungs say when they apply; relations; the peel -----------------------------------


def test_law_3_a_rung_that_cannot_mend_the_symptom_is_passed_over():
    world = make_world(cures=("restore",))
    world.plant.sick = {"gauge": lambda tick: math.nan}
    heated(world)
    assert world.turned == ["restore"]
    assert {r["rung"] for r in world.records("verified") if r["verdict"] == "passed over"} == {
        "cool", "try the other pump",
    }  # fmt: skip


def test_law_3_an_alternative_is_undone_before_the_next_rung_also_when_it_helped_and_relapsed():
    world = make_world(cures=("try the other pump",))
    world.run(WARM)
    world.plant.fault_on = True
    world.run(HEATED, until="relapse watch")
    world.plant.cures = frozenset({"restore"})
    world.run(HEATED, until="recovered")
    order = [(c.verb, c.record.data["rung"]) for c in world.commands if c.verb in ("turn", "undo")]
    assert order.index(("undo", "try the other pump")) < order.index(("turn", "restore"))


def test_law_3_cumulative_rungs_stand_together_and_are_peeled_in_reverse_order_each_verified():
    second = Rung("shut the door", "shelf", Override("cap", 1.0), HOT, confirm=4, deadline=ticks(12))
    world = make_world(cures=("shut the door",), entries={"HEAT": entry("HEAT", (heat_rungs()[0], second))})
    world.plan = replace(world.plan, watches=world.plan.watches[:2])
    world.engine = type(world.engine)(world.plan)
    heated(world)
    undone = [c.record.data["rung"] for c in world.commands if c.verb == "undo"]
    assert undone == ["shut the door", "cool"]
    assert world.phase() == "recovered"
    assert not world.plant.owners()


def test_law_3_a_peel_that_relapses_is_put_back_and_the_incident_is_recovered_held():
    world = make_world()
    world.run(WARM)
    world.plant.fault_on = True  # it never goes
    world.run(HEATED, until="recovered (held)")
    assert world.phase() == "recovered (held)"
    assert world.plant.in_force("cool")
    assert not world.plant.is_ill
    assert world.records("held")[0]["standing"] == ["cool"]


def test_law_3_another_fault_during_a_peel_is_answered_by_its_own_rung_and_not_waited_out():
    """Found by the chaos run: a rung with an hour's deadline was put back and nothing else was tried."""
    patient = replace(heat_rungs()[0], deadline=ticks(10_000))
    world = make_world(entries={"HEAT": entry("HEAT", (patient, heat_rungs()[2]))})
    world.plan = replace(world.plan, watches=world.plan.watches[:2])
    world.engine = type(world.engine)(world.plan)
    world.run(WARM)
    world.plant.fault_on = True
    world.run(HEATED, until="relapse watch")
    world.plant.fault_on = False
    world.run(HEATED, until="peel verifying")
    world.plant.healthy["gauge"] = lambda tick: math.nan
    world.run(8)
    assert world.turned[-1] == "restore"
    world.plant.healthy["gauge"] = lambda tick: 0.0
    world.run(HEATED)
    assert world.phase() == "recovered"


def test_law_3_an_irreversible_rung_is_never_undone():
    world = make_world(cures=("restore",))
    heated(world)
    assert "restore" not in [c.record.data["rung"] for c in world.commands if c.verb == "undo"]
    assert world.incident.recovered_after == "restore"


def test_law_3_an_undo_that_does_not_show_is_handed_over_and_never_called_recovered():
    world = make_world()
    world.answer = lambda c: Outcome(True) if c.verb == "undo" else world.do(c)
    heated(world, until="handed over")
    assert "could not be undone" in world.incident.reason
    assert "closed" not in world.events


# --- law 4 is the drill's; law 5: the healthy baseline ----------------------------------------


def test_law_5_green_outside_the_healthy_band_is_no_recovery():
    world = make_world(cures=("cool",))
    world.run(WARM)
    world.plant.healthy["heat"] = lambda tick: 1.3  # under every threshold, and far above the band
    world.plant.fault_on = True
    world.run(HEATED)
    assert world.phase() == "handed over"
    assert "recovered" not in world.events


def test_law_5_the_band_is_frozen_at_the_last_good_mark_and_not_at_detection():
    world = make_world()
    world.run(WARM)
    world.engine.candidate(world.plant.tick)
    world.run(12)
    good = world.engine.baseline.bands["heat"]
    world.plant.healthy["heat"] = lambda tick: 1.2
    world.run(8)
    world.plant.fault_on = True
    world.run(3)
    assert world.engine.baseline.bands["heat"] == good


def test_law_5_a_value_flagged_at_this_moment_does_not_enter_the_baseline():
    one, other = make_world(), make_world()
    one.run(30)
    other.run(30)
    one.plant.healthy["heat"] = lambda tick: 1.9
    one.run(1)
    tracker = one.engine.baseline.state()["trackers"]
    assert tracker == other.engine.baseline.state()["trackers"]


def test_without_a_healthy_past_only_a_whole_probation_shows_health():
    world = make_world()
    world.plant.fault_on = True
    world.plant.severity = 1.0
    world.run(3)
    world.run(HEATED, until="relapse watch")
    verified = next(c.record.tick for c in world.commands if c.record.data.get("verdict") == "helped")
    asked = next(c.record.tick for c in world.commands if c.verb == "turn")
    assert verified - asked >= world.plan.probation


# --- law 6: good is earned --------------------------------------------------------------------


def test_law_6_good_takes_a_probation_and_is_never_given_inside_an_open_incident():
    world = make_world()
    world.run(WARM)
    world.engine.candidate(world.plant.tick)
    world.run(5)
    world.plant.fault_on = True
    world.run(HEATED, until="relapse watch")
    world.engine.candidate(world.plant.tick)
    world.run(5)
    assert "mark_good" not in [c.verb for c in world.commands]
    world.plant.fault_on = False
    world.run(HEATED, until="recovered")
    world.run(1)
    saved = world.plant.tick
    world.engine.candidate(saved)
    world.run(20)
    assert [c.tick for c in world.commands if c.verb == "mark_good"] == [saved]


# --- law 7 and 8: the guard itself ------------------------------------------------------------


def test_law_7_a_guard_that_keeps_firing_hands_over_instead_of_firing_on():
    world = make_world(entries={"HEAT": entry("HEAT", heat_rungs(), max_incidents=2, per=ticks(5000)),
                                "DISK": default_entries()["DISK"]})  # fmt: skip
    for _ in range(3):
        heated(world)
        world.run(30)
    assert world.phase(1) == world.phase(2) == "recovered"
    assert world.phase(3) == "handed over"
    assert "keeps firing" in world.incident.reason


class Exploding:
    """A detector that raises from its fifth value on."""

    def __init__(self) -> None:
        self.left = 5

    def observe(self, value: float) -> Level:
        self.left -= 1
        if self.left < 0:
            raise ZeroDivisionError("in a detector")
        return Level.GREEN

    def state(self) -> dict[str, float]:
        return {}

    def load(self, state: dict[str, float]) -> None:
        """Nothing."""


def test_law_8_an_exception_in_a_detector_is_a_finding_about_the_guard_and_the_others_go_on():
    bad = BoundWatch("HEAT", "t/heat", Watch("bad", "heat", "hot", Exploding), 0)
    world = make_world(watches=(bad, *watches()))
    world.run(WARM)
    assert [r["what"] for r in world.records("guard_fault")] == ["ZeroDivisionError: in a detector"]
    world.plant.fault_on = True
    world.run(5)
    assert world.incident.symptoms == {"hot"}
    assert not world.engine._healthy


def test_law_8_a_row_of_the_wrong_length_is_reported_and_taken_as_missing():
    world = make_world()
    world.carry_out(world.engine.observe([1.0], 1, 1.0))
    assert "taken as missing" in world.records("guard_fault")[0]["what"]


def test_law_8_an_override_that_does_not_fit_its_control_is_passed_over():
    odd = Rung("scale a name", "pump", Override("scale", 2.0), HOT)
    world = make_world(entries={"HEAT": entry("HEAT", (odd, *heat_rungs())), "DISK": default_entries()["DISK"]})
    heated(world)
    assert "does not fit" in world.records("verified")[0]["why"]
    assert world.phase() == "recovered"


# --- law 9: tries are capped ------------------------------------------------------------------


def test_law_9_tries_are_capped_then_comes_the_contingency_then_a_person():
    world = make_world(cures=())
    world.run(WARM)
    world.plant.fault_on = True
    world.run(HEATED)
    assert world.turned == ["cool", "cool", "try the other pump", "restore", "stop"]
    assert world.phase() == "handed over"
    by = [c.record.data["by"] for c in world.commands if c.verb == "turn" and c.record.data["rung"] == "cool"]
    assert by == [0.5, 0.25]


# --- law 11: a restart forgets nothing --------------------------------------------------------

PHASES = (
    "acting", "reading", "verifying", "relapse watch", "confirming", "closing", "peeling", "peel reading",
    "peel verifying",
)  # fmt: skip


@pytest.mark.parametrize("levers_too", [True, False], ids=["settings died with the process", "settings live on"])
@pytest.mark.parametrize("phase", PHASES)
def test_law_11_an_incident_resumes_in_every_phase_and_turns_no_rung_twice(phase, levers_too):
    world = make_world()
    world.run(WARM)
    world.plant.fault_on = True
    stop_in(world, phase)
    assert world.phase() == phase
    world.answer = None
    tried = dict(world.incident.tried)
    world.restart(levers_too=levers_too)
    assert world.incident.tried == tried
    world.run(HEATED, until="peel verifying")
    world.plant.fault_on = False
    world.run(HEATED, until="recovered")
    assert world.phase() == "recovered"
    assert world.incident.tried == {"cool": 1}
    assert not world.plant.owners()


def stop_in(world, phase):
    """Run until the incident is in this phase, holding back the outcome that would end it."""
    verbs = {"acting": "turn", "reading": "read", "confirming": "read", "closing": "keep",
             "peeling": "undo", "peel reading": "read"}  # fmt: skip

    def answer(command):
        return None if command.verb == verbs.get(phase) and world.phase() == phase else world.do(command)

    world.answer = answer
    for _ in range(HEATED):
        world.run(1)
        if world.phase() == phase:
            return


@pytest.mark.parametrize("phase", ["restoring", "restore reading", "restore verifying"])
def test_law_11_a_rung_being_put_back_resumes_and_is_held(phase):
    world = make_world()
    world.run(WARM)
    world.plant.fault_on = True
    verbs = {"restoring": "turn", "restore reading": "read"}
    world.answer = lambda c: (
        None if c.verb == verbs.get(phase) and world.engine.incidents and world.phase() == phase else world.do(c)
    )
    for _ in range(HEATED):
        world.run(1)
        if world.engine.incidents and world.phase() == phase:
            break
    world.answer = None
    world.restart()
    world.run(HEATED, until="recovered (held)")
    assert world.phase() == "recovered (held)"
    assert world.plant.in_force("cool")


@pytest.mark.parametrize("phase", ["undoing", "unreading"])
def test_law_11_an_undo_cut_short_is_carried_out(phase):
    world = make_world(cures=("restore",))
    world.run(WARM)
    world.plant.fault_on = True
    verb = "undo" if phase == "undoing" else "read"
    world.answer = lambda c: (
        None if c.verb == verb and world.engine.incidents and world.phase() == phase else world.do(c)
    )
    for _ in range(HEATED):
        world.run(1)
        if world.engine.incidents and world.phase() == phase:
            break
    assert world.phase() == phase
    world.answer = None
    world.restart(levers_too=False)
    world.run(HEATED, until="recovered")
    assert not world.plant.in_force("try the other pump")
    assert world.incident.recovered_after == "restore"


def test_law_11_a_restore_cut_short_is_settled_by_read_back_and_never_repeated_blindly():
    world = make_world(cures=("restore",))
    world.run(WARM)
    world.plant.fault_on = True
    world.answer = lambda c: None if c.verb == "turn" and c.target.control == "weights" else world.do(c)
    world.run(HEATED, until="held back")
    assert world.phase() == "acting"
    command = world.held_back[0]
    world.do(command)  # it was done, and the process died before it could say so
    world.answer = None
    turned = len(world.turned)
    world.restart(levers_too=False)
    world.run(HEATED, until="recovered")
    assert world.phase() == "recovered"
    assert len(world.turned) == turned


def test_law_11_latches_queues_and_held_settings_survive():
    world = make_world()
    world.run(WARM)
    world.plant.fault_on = True
    world.run(HEATED, until="recovered (held)")
    world.plant.cures = frozenset()
    world.run(HEATED, until="handed over")
    held = world.plant.owners()
    world.restart()
    assert held & world.plant.owners() == {o for o in held if o.rung == "cool"}
    assert "HEAT" in world.engine.latched
    number = len(world.engine.incidents)
    world.run(30)
    assert len(world.engine.incidents) == number


def test_law_11_a_setting_that_cannot_be_put_back_hands_its_incident_over():
    world = make_world()
    world.run(WARM)
    world.plant.fault_on = True
    world.run(HEATED, until="relapse watch")
    world.answer = lambda c: Outcome(True) if c.verb == "turn" else world.do(c)
    world.restart()
    assert world.phase() == "handed over"
    assert "could not be put in force" in world.incident.reason


def test_law_11_a_rung_that_the_register_lost_is_undone_and_reported():
    world = make_world()
    world.run(WARM)
    world.plant.fault_on = True
    world.run(HEATED, until="relapse watch")
    entries = {"HEAT": entry("HEAT", heat_rungs()[1:]), "DISK": default_entries()["DISK"]}
    world.restart(levers_too=False, plan=replace(world.plan, entries=entries))
    assert not world.plant.owners()
    assert any("unknown rungs" in r["what"] for r in world.records("guard_fault"))


def test_law_11_an_entry_that_the_register_lost_is_handed_over():
    world = make_world()
    world.run(WARM)
    world.plant.fault_on = True
    world.run(HEATED, until="relapse watch")
    entries = {"DISK": default_entries()["DISK"]}
    world.restart(plan=replace(world.plan, entries=entries, watches=world.plan.watches[2:]))
    assert world.phase() == "handed over"
    world.run(5)


def test_law_11_the_kernels_seconds_go_on_after_a_restart_and_ticks_may_go_back():
    world = make_world()
    world.run(WARM)
    world.plant.fault_on = True
    world.run(HEATED, until="verifying")
    world.restart()
    world.plant.tick = 5  # from an older checkpoint
    world.run(HEATED, until="relapse watch")
    assert world.phase() == "relapse watch"
    assert world.plant.tick < 30


# --- decision 4: queue, preemption, latches ---------------------------------------------------


def two_troubles(disk):
    world = make_world()
    world.run(WARM)
    world.plant.fault_on = True
    world.run(3)
    world.plant.levers["disk"] = world.plant.levers["shelf"]
    world.plant.healthy["disk"] = lambda tick: 9.0 if world.plant.in_force("prune") else disk
    return world.run(1)


def test_only_one_incident_climbs_and_a_red_one_waits_for_it():
    world = two_troubles(1.0)
    assert [i.phase.value for i in world.engine.incidents] == ["verifying", "queued"]
    world.run(12)
    assert world.phase(2) == "queued"


def test_a_critical_incident_preempts_only_between_rungs_and_the_suspended_one_resumes_with_its_rungs():
    world = make_world(cures=("restore",))
    world.run(WARM)
    world.plant.fault_on = True
    world.run(3)
    world.plant.healthy["disk"] = lambda tick: 9.0 if world.plant.in_force("prune") else 0.1
    world.run(2)
    assert world.phase(1) == "verifying", "a rung under verification is not interrupted"
    world.run(HEATED, until="queued")
    world.run(14)
    assert world.phase(1) == "queued"
    assert world.plant.in_force("cool"), "what stands, stands"
    assert world.turned[-1] == "prune"
    world.run(HEATED, until="recovered")
    world.run(HEATED)
    assert world.engine.incidents[0].tried["cool"] == 2
    assert world.engine.incidents[0].recovered_after == "restore"


def test_a_suspended_incident_that_went_quiet_is_watched_and_peeled_and_turns_no_new_rung():
    world = make_world(cures=("restore",))
    world.run(WARM)
    world.plant.fault_on = True
    world.run(3)
    world.plant.healthy["disk"] = lambda tick: 9.0 if world.plant.in_force("prune") else 0.1
    world.run(HEATED, until="queued")
    world.run(14)
    world.plant.fault_on = False
    world.run(HEATED)
    first = world.engine.incidents[0]
    assert first.phase.value == "recovered"
    assert first.recovered_after is None
    assert first.tried == {"cool": 1}
    assert not any(o.incident == 1 for o in world.plant.owners())


def test_a_latch_opens_only_after_green_for_a_whole_relapse_watch_and_silence_does_not_open_it():
    world = make_world(cures=())
    world.run(WARM)
    world.plant.fault_on = True
    world.run(HEATED, until="handed over")
    world.plant.silent.add("heat")
    world.run(100)
    assert "HEAT" in world.engine.latched
    world.plant.silent.clear()
    world.plant.fault_on = False
    world.run(8)
    assert "HEAT" in world.engine.latched
    world.run(10)
    assert "HEAT" not in world.engine.latched


def test_a_latch_in_seconds_counts_only_without_a_gap():
    entries = {"HEAT": entry("HEAT", (), relapse_watch=seconds(10)), "DISK": default_entries()["DISK"]}
    world = make_world(entries=entries)
    world.run(WARM)
    world.plant.fault_on = True
    world.run(5)
    world.plant.fault_on = False
    for _ in range(4):
        world.run(6)
        world.plant.silent.add("heat")
        world.run(1)
        world.plant.silent.clear()
    assert "HEAT" in world.engine.latched
    world.run(14)
    assert "HEAT" not in world.engine.latched


def test_an_acknowledged_entry_that_is_still_red_opens_anew():
    world = make_world(cures=())
    world.run(WARM)
    world.plant.fault_on = True
    world.run(HEATED, until="handed over")
    world.run(20)
    assert len(world.engine.incidents) == 1
    world.plant.cures = frozenset({"cool"})
    world.carry_out(world.engine.acknowledge("HEAT", "the owner"))
    world.run(HEATED)
    assert len(world.engine.incidents) == 2


def test_a_rebaseline_learns_a_new_normal_and_opens_every_latch():
    world = make_world(cures=())
    world.run(WARM)
    world.plant.fault_on = True
    world.run(HEATED, until="handed over")
    world.carry_out(world.engine.rebaseline("the owner"))
    assert not world.engine.latched
    assert not world.engine.baseline.bands


# --- commands without an outcome ---------------------------------------------------------------


def test_a_hung_command_is_unknown_after_patience_and_settled_by_the_read_back():
    world = make_world()
    world.answer = lambda c: None if c.verb == "turn" and world.plant.levers else world.do(c)
    world.run(WARM)
    world.plant.fault_on = True
    world.run(10)
    command = world.held_back[0]
    world.do(command)  # it did take effect
    world.run(30)
    assert world.phase() != "acting"
    assert world.records("outcome")[0]["detail"] == "no outcome within 30 s"
    late = world.engine.outcome(command.number, Outcome(True))
    assert "came too late" in late[0].record.data["what"]
    world.run(HEATED, until="recovered (held)")
    assert world.incident.recovered_after == "cool"


def test_a_read_back_that_hangs_is_no_confirmation():
    world = make_world()
    world.answer = lambda c: None if c.verb == "read" else world.do(c)
    world.run(WARM)
    world.plant.fault_on = True
    world.run(200)
    assert world.phase() == "handed over"


def test_evidence_that_is_not_kept_is_no_verdict():
    world = make_world()
    world.keeps = False
    heated(world, until="handed over")
    assert "evidence" in world.incident.reason


@pytest.mark.parametrize(("answer", "ended"), [(True, "recovered"), (False, "handed over"), (None, "handed over")])
def test_a_rung_may_only_add_a_condition(answer, ended):
    rungs = tuple(replace(r, condition="sound") for r in heat_rungs()[:1])
    world = make_world(entries={"HEAT": entry("HEAT", rungs), "DISK": default_entries()["DISK"]})
    world.conditions["sound"] = answer
    heated(world, until=ended)
    assert world.phase() == ended


# --- steps, and requests to a person -----------------------------------------------------------


def test_steps_are_all_carried_out_in_order_and_recovery_is_asked_only_at_the_end():
    world = make_world(entries={"HEAT": entry("HEAT", heat_rungs(), carry_out_all=True),
                                "DISK": default_entries()["DISK"]})  # fmt: skip
    world.conditions["sound"] = True
    world.run(WARM)
    world.plant.fault_on = True
    world.run(4)
    assert world.turned == ["cool", "try the other pump", "restore"]
    assert not world.records("verified")
    world.run(HEATED, until="peel verifying")
    world.plant.fault_on = False
    world.run(HEATED, until="recovered")
    assert world.phase() == "recovered"
    assert [c.record.data["rung"] for c in world.commands if c.verb == "undo"] == ["try the other pump", "cool"]


def test_steps_that_do_not_help_go_to_the_contingency_and_none_is_carried_out_twice():
    stop = Rung("stop", "run", Override("choose", "stopped"), frozenset({"*"}), ends_run=True)
    steps = entry("HEAT", heat_rungs(), carry_out_all=True, contingency=stop)
    world = make_world(cures=(), entries={"HEAT": steps, "DISK": default_entries()["DISK"]})
    world.run(WARM)
    world.plant.fault_on = True
    world.run(HEATED)
    assert world.turned == ["cool", "try the other pump", "restore", "stop"]
    assert world.phase() == "handed over"


def test_a_step_that_cannot_be_carried_out_does_not_stop_the_others_and_is_told_at_the_end():
    world = make_world(entries={"HEAT": entry("HEAT", heat_rungs(), carry_out_all=True),
                                "DISK": default_entries()["DISK"]})  # fmt: skip
    world.answer = lambda c: Outcome(False) if c.verb == "turn" and c.target.control == "pump" else world.do(c)
    world.run(WARM)
    world.plant.fault_on = True
    world.run(HEATED)
    assert world.turned == ["cool", "try the other pump", "restore"]
    assert world.phase() == "handed over"
    assert "try the other pump" in world.incident.reason


def requested(due):
    ask = Rung("name a backup", "pump", Override("choose", "named"), DISK, confirm=1, settle=ticks(0),
               deadline=ticks(3), due=due)  # fmt: skip
    world = make_world(entries={"HEAT": default_entries()["HEAT"],
                                "DISK": entry("DISK", (ask,), relapse_watch=ticks(1))})  # fmt: skip
    named = []
    world.plant.healthy["disk"] = lambda tick: 9.0 if named or tick <= WARM else 1.0

    def answer(command):
        if command.verb == "read" and command.target.control == "pump":
            return Outcome(True, "named" if named and world.plant.owners() else "A")
        return world.do(command)

    world.answer = answer
    return world.run(WARM + 2), named


def test_a_request_to_a_person_waits_for_evidence_on_a_later_assessment():
    world, named = requested(ticks(50))
    assert world.phase() == "awaiting evidence"
    world.run(20)
    assert world.phase() == "awaiting evidence"
    world.restart(levers_too=False)
    assert world.phase() == "awaiting evidence"
    named.append("someone")
    world.run(10, until="recovered")
    assert world.incident.recovered_after == "name a backup"
    assert world.turned.count("name a backup") == 1


def test_a_request_without_evidence_by_its_due_date_is_withdrawn_and_handed_over():
    world, _ = requested(ticks(20))
    world.run(30)
    assert world.phase() == "handed over"
    assert world.records("verified")[-1]["why"] == "no evidence by its due date"
    assert not world.plant.owners()


def test_two_settings_are_the_same_only_when_both_are_known():
    assert same_setting(0.1 + 0.2, 0.3)
    assert not same_setting(None, None)
    assert not same_setting("1", 1.0)


def test_relations_are_named_as_registers_name_them():
    assert [r.value for r in Relation] == ["cumulative", "alternative", "irreversible"]
