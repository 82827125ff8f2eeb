"""Random worlds: whatever is observed and whatever comes of a command, the kernel keeps its promises."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_world import entry, heat_rungs, make_world

from premortem.core.action import Outcome, Owner
from premortem.core.clock import seconds, ticks
from premortem.core.command import Command
from premortem.core.detector import Level
from premortem.core.engine import Engine
from premortem.core.incident import Phase

VALUES = st.sampled_from([None, 0.0, 1.0, 1.0, 1.0, 1.01, 1.6, 3.0, 3.0, 1e9, math.nan, math.inf, -math.inf])
ROWS = st.tuples(VALUES, VALUES, VALUES)
OUTCOMES = st.sampled_from(["do", "do", "do", "do", "lie", "fail", "unknown", "garbage", "silence"])
MOVES = st.lists(
    st.tuples(ROWS, OUTCOMES, st.sampled_from(["go", "go", "go", "go", "go", "restart", "acknowledge", "rebaseline"]),
              st.integers(1, 12)),
    min_size=1, max_size=40,
)  # fmt: skip
QUIET = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


class Promises:
    """Drives an engine and checks its promises after every command."""

    def __init__(self, *, steps: bool) -> None:
        rungs = heat_rungs()
        heat = entry("HEAT", rungs, carry_out_all=steps, max_incidents=4, per=ticks(300), relapse_watch=seconds(6))
        world = make_world()
        self.world = make_world(entries={"HEAT": heat, "DISK": world.plan.entries["DISK"]}, patience=seconds(5))
        self.kept: set[tuple[int | None, str]] = set()
        self.how = "do"
        self.row: list[float | None] = []
        self.world.answer = self.answer

    @property
    def engine(self) -> Engine:
        return self.world.engine

    def answer(self, command: Command) -> Outcome | None:
        if self.how == "silence":
            return None
        if self.how == "unknown":
            return Outcome(None, None, "?")
        if self.how == "fail":
            return Outcome(False, None, "no")
        if self.how == "garbage":
            return Outcome(True, math.nan)
        if command.verb == "keep":
            self.kept.add((command.record.incident, command.record.event))
        return Outcome(True) if self.how == "lie" and command.verb in ("turn", "undo") else self.world.do(command)

    def step(self, row: tuple[float | None, ...], tick: int) -> None:
        witness = self.world.plant.levers["valve"].read()
        self.row = [*row, witness if isinstance(witness, float) else None]
        self.world.carry_out(self.engine.observe(list(self.row), tick, float(tick)))
        self.check()

    def check(self) -> None:
        engine = self.engine
        assert sum(i.phase not in (Phase.QUEUED,) and not i.phase.is_over for i in engine.incidents) <= 1
        for incident in engine.incidents:
            limits = {r.name: r.tries for r in engine.plan.entries[incident.entry].all_rungs}
            assert all(count <= limits[name] for name, count in incident.tried.items())
            if incident.phase in (Phase.RECOVERED, Phase.HELD):
                event = "closed" if incident.phase is Phase.RECOVERED else "held"
                assert {(incident.number, "recovered"), (incident.number, event)} <= self.kept
            if incident.phase is Phase.RECOVERED:
                assert not incident.standing
        known = {i.number: i for i in engine.incidents}
        for stack in engine.site.stacks.values():
            for owner in stack.owners:
                assert known[owner.incident].phase is not Phase.RECOVERED, owner
        self.check_fresh_verdicts()

    def check_fresh_verdicts(self) -> None:
        """A verdict given at this very tick: its detectors are GREEN now, and the settings are truly there."""
        engine = self.engine
        for command in self.world.commands:
            if command.verb != "keep" or command.record.tick != engine.desk.tick:
                continue
            incident = engine.incidents[(command.record.incident or 1) - 1]
            if (incident.number, command.record.event) in self.kept and not incident.phase.is_over:
                assert all(engine.observer.levels[w] is Level.GREEN for w in incident.watches)
                truly = self.world.plant.owners()
                assert {Owner(incident.number, s.rung.name) for s in incident.standing} <= truly


def drive(moves: list, *, steps: bool, before: Callable[[Promises], None] = lambda p: None) -> Promises:
    promises = Promises(steps=steps)
    tick = 0
    for row, how, move, length in moves:
        promises.how = how
        if move == "restart":
            promises.world.restart(levers_too=length > 6)
        elif move == "acknowledge":
            promises.world.carry_out(promises.engine.acknowledge("HEAT", "someone"))
        elif move == "rebaseline":
            promises.world.carry_out(promises.engine.rebaseline("someone"))
        if length == 12:
            promises.engine.candidate(tick)
        for _ in range(length):
            tick += 1
            before(promises)
            promises.step(row, tick)
    return promises


@QUIET
@given(MOVES)
def test_no_sequence_of_observations_and_outcomes_breaks_a_promise_of_a_ladder(moves):
    drive(moves, steps=False)


@QUIET
@given(MOVES)
def test_no_sequence_of_observations_and_outcomes_breaks_a_promise_of_steps(moves):
    drive(moves, steps=True)


@QUIET
@given(st.integers(1, 220), st.sampled_from([("cool",), ("restore",), ("try the other pump",), ()]), st.booleans())
def test_a_restart_at_any_tick_leads_to_the_same_verdict(at, cures, stays):
    def verdict(restart_at: int) -> tuple[list[str], list[dict[str, int]]]:
        world = make_world(cures=cures)
        for tick in range(400):
            world.plant.fault_on = tick >= 40 and (stays or "recovered" not in world.events)
            world.run(1)
            if tick == restart_at:
                detectors = world.engine.observer.state()
                world.restart(levers_too=tick % 2 == 0)
                assert world.engine.observer.load(detectors) == []
        return [i.phase.value for i in world.engine.incidents], [i.tried for i in world.engine.incidents]

    assert verdict(at) == verdict(-1)


@QUIET
@given(MOVES)
def test_memory_is_plain_json_and_loads_to_itself(moves):
    promises = drive(moves, steps=False)
    saved = json.loads(json.dumps(promises.engine.state()))
    again = Engine(promises.world.plan)
    again.load(saved)
    for key in ("latched", "queue", "climbing"):
        assert json.loads(json.dumps(again.state()))[key] == saved[key]
    tried = [i["tried"] for i in saved["incidents"]]
    assert [i.tried for i in again.incidents] == tried
