"""The small parts of the kernel, each for itself, where a scenario does not reach."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from kernel_world import HOT, default_entries, entry, heat_rungs, make_world, watches

from premortem.core.action import Outcome, Override
from premortem.core.baseline import Baseline
from premortem.core.clock import Duration, Now, seconds, ticks
from premortem.core.detector import Level
from premortem.core.errors import ConfigError
from premortem.core.ladder import Relation, Rung
from premortem.core.observer import Observer
from premortem.core.plan import BoundWatch
from premortem.core.risk import Watch
from premortem.core.verification import Band, Verdict, Window
from premortem.parts.detectors import Heartbeat, Shift, Threshold

WARM = 40


def one_watch(make, **more):
    return replace(make_world().plan, watches=(BoundWatch("HEAT", "r", Watch("w", "heat", "hot", make, **more), 0),))


def test_detector_windows_are_keyed_by_their_parameters_and_start_fresh_when_these_change():
    before = Observer(one_watch(lambda: Shift(floor=0.05)))
    for _ in range(200):
        before.observe([1.0, 0.0, 0.0, 0.0])
    state = before.state()
    same, other, kind = (Observer(one_watch(m)) for m in (
        lambda: Shift(floor=0.05), lambda: Shift(floor=0.06), lambda: Threshold(red=2.0)))  # fmt: skip
    assert same.load(state) == []
    assert same.observe([1.0, 0.0, 0.0, 0.0]) == [(0, None, Level.GREEN)]
    assert other.load(state) == kind.load(state) == ["HEAT/r/w"]
    assert other.observe([1.0, 0.0, 0.0, 0.0]) == []


def test_a_window_that_starts_fresh_says_so():
    world = make_world()
    world.engine.observer.load({})
    world.run(1)
    assert all("starts fresh" in r["what"] for r in world.records("unwatched"))
    assert len(world.records("unwatched")) == 3


class RaisesOnce:
    """Raises at its first value."""

    def observe(self, value: float) -> Level:
        raise ValueError("no")

    def missing(self, seconds: float) -> Level:
        raise ValueError("no")

    def state(self) -> dict[str, float]:
        return {}

    def load(self, state: dict[str, float]) -> None:
        raise KeyError("nothing")


class RaisesPlainly:
    """As above, but deaf to silence."""

    observe, state, load = RaisesOnce.observe, RaisesOnce.state, RaisesOnce.load


@pytest.mark.parametrize("kind", [RaisesOnce, RaisesPlainly])
def test_two_detectors_that_raise_at_the_same_value_are_both_reported_and_the_third_still_sees(kind):
    bad = [BoundWatch("HEAT", "r", Watch(name, "heat", "hot", kind), 0) for name in "ab"]
    world = make_world(watches=(*bad, *watches()))
    world.run(3)
    assert [r["watch"] for r in world.records("guard_fault")] == ["a", "b"]
    assert world.engine.observer.levels[2] is Level.GREEN
    world.carry_out(world.engine.rebaseline("someone"))
    world.run(1)
    assert len(world.records("guard_fault")) == 4


def test_a_heartbeat_beats_with_every_value_and_hears_its_silence_in_seconds():
    observer = Observer(one_watch(lambda: Heartbeat(red_s=5.0)))
    rows = [(0.0, 1.0), (3.0, None), (4.0, math.nan), (6.0, None), (7.0, 1.0)]
    seen = []
    for at, value in rows:
        observer.observe([value, 0.0, 0.0, 0.0], at)
        seen.append(observer.levels[0])
    assert seen == [Level.GREEN, Level.GREEN, Level.GREEN, Level.RED, Level.GREEN]


def test_a_baseline_ignores_what_is_not_finite_and_bounds_the_weight_of_one_value():
    baseline = Baseline(make_world().plan)
    for tick in range(40):
        baseline.healthy([1.0 + 0.01 * (tick % 2), 0.0, 0.0, 0.0], tick)
    before = baseline.state()["trackers"]["heat"]
    baseline.healthy([math.nan, 0.0, 0.0, 0.0], 41)
    baseline.healthy([math.inf, 0.0, 0.0, 0.0], 42)
    assert baseline.state()["trackers"]["heat"] == before
    baseline.healthy([1e9, 0.0, 0.0, 0.0], 43)
    assert baseline.state()["trackers"]["heat"][1] < 1.02


def test_a_baseline_without_checkpoints_earns_its_band_by_itself_and_with_them_only_by_a_mark():
    alone, saved = Baseline(make_world().plan), Baseline(make_world().plan)
    for tick in range(30):
        alone.healthy([1.0, 0.0, 0.0, 0.0], tick)
        if tick == 5:
            saved.candidate(tick)
        marked = saved.healthy([1.0, 0.0, 0.0, 0.0], tick)
        assert (marked == 5) == (tick == 17)
    assert alone.bands
    assert saved.good_tick == 5
    again = Baseline(make_world().plan)
    again.load(saved.state())
    assert again.bands == saved.bands


def test_a_band_holds_on_its_bad_side_only():
    assert Band(1.0, 0.1).holds(-5.0, 10)
    assert not Band(1.0, 0.1).holds(2.0, 10)
    assert not Band(1.0, 0.1, higher_is_worse=False).holds(-5.0, 10)
    assert not Band(1.0, 0.1).holds(math.nan, 10)


def test_a_window_waits_for_its_settle_time_and_knows_its_means():
    window = Window(Now(0, 0.0), ticks(2), 2, ticks(5))
    assert window.means() == {}
    assert window.take(Now(1, 1.0), green=True, values={"a": 100.0}) is Verdict.OPEN
    assert window.take(Now(2, 2.0), green=True, values={"a": 1.0}) is Verdict.OPEN
    assert window.take(Now(3, 3.0), green=None, values={}) is Verdict.OPEN
    assert window.take(Now(4, 4.0), green=True, values={"a": 3.0}) is Verdict.GREEN
    assert window.means() == {"a": 2.0}


def test_durations_have_units():
    assert Duration.parse("15 min") == seconds(900)
    assert Duration.parse("1 assessment") == ticks(1)
    assert str(ticks(20)) == "20 ticks"
    assert str(seconds(2)) == "2 s"
    with pytest.raises(ConfigError, match="expected a duration with a unit"):
        Duration.parse("20")


def test_a_relapse_watch_in_seconds_counts_only_without_a_gap():
    entries = {"HEAT": entry("HEAT", heat_rungs(), relapse_watch=seconds(10)), "DISK": default_entries()["DISK"]}
    world = make_world(entries=entries)
    world.run(WARM)
    world.plant.fault_on = True
    world.run(500, until="relapse watch")
    world.run(6)
    world.plant.silent.add("heat")
    world.run(1)
    world.plant.silent.clear()
    world.run(9)
    assert world.phase() == "relapse watch"
    world.run(3)
    assert "recovered" in world.events


def test_a_control_that_the_workload_lacks_makes_its_rung_unavailable():
    lacking = Rung("ask nobody", "oracle", Override("choose", 1.0), HOT)
    world = make_world(entries={"HEAT": entry("HEAT", (lacking, *heat_rungs())), "DISK": default_entries()["DISK"]})
    world.run(WARM)
    world.plant.fault_on = True
    world.run(5)
    assert "no control 'oracle'" in world.records("verified")[0]["why"]
    assert world.turned == ["cool"]


def test_an_irreversible_setting_that_is_lost_or_never_came_is_no_longer_expected():
    once = Rung("cut for good", "valve", Override("scale", 0.5), HOT, Relation.IRREVERSIBLE, confirm=4,
                deadline=ticks(12), settle=ticks(1))  # fmt: skip
    entries = {"HEAT": entry("HEAT", (once, heat_rungs()[1])), "DISK": default_entries()["DISK"]}
    world = make_world(cures=("cut for good",), entries=entries)
    world.run(WARM)
    world.plant.fault_on = True
    world.run(500, until="relapse watch")
    valve = world.plant.levers["valve"]
    valve.undo(valve.stack.owners[0])
    world.run(3)
    assert world.turned[-1] == "try the other pump"
    assert not world.engine.site.stacks["valve"].owners
    other = make_world(cures=(), entries=entries)
    other.answer = lambda c: Outcome(True) if c.verb == "turn" else other.do(c)
    other.run(WARM)
    other.plant.fault_on = True
    other.run(3)
    assert not other.engine.site.stacks["valve"].owners


def test_a_put_back_that_does_not_show_is_handed_over():
    world = make_world()
    world.run(WARM)
    world.plant.fault_on = True
    world.run(500, until="peel verifying")
    world.answer = lambda c: Outcome(True) if c.verb == "turn" else world.do(c)
    world.run(60)
    assert world.phase() == "handed over"
    assert "could not be put back" in world.incident.reason


def test_a_peel_in_silence_is_handed_over():
    world = make_world()
    world.run(WARM)
    world.plant.fault_on = True
    world.run(500, until="peel verifying")
    world.plant.silent.add("heat")
    world.run(60)
    assert "a peel's verification stayed inconclusive" in world.incident.reason


def test_a_rung_put_back_that_no_longer_helps_leads_on_up_the_ladder():
    world = make_world(cures=("cool",))
    world.run(WARM)
    world.plant.fault_on = True
    world.run(500, until="restore verifying")
    world.plant.cures = frozenset({"restore"})
    world.run(500, until="recovered")
    assert world.incident.recovered_after == "restore"


def test_an_undone_setting_that_came_back_before_the_seal_is_handed_over():
    world = make_world(cures=("try the other pump",))
    world.run(WARM)
    world.plant.fault_on = True
    world.run(500, until="peel verifying")
    world.plant.fault_on = False
    pump = world.plant.levers["pump"]
    pump.stack.base = "C"
    world.run(60)
    assert world.phase() == "handed over"
    assert "not as expected" in world.incident.reason
