"""A world for the kernel: the plant of the sabotage campaign, its settings, and the real engine on it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from premortem.core.action import Outcome, Override
from premortem.core.clock import ticks
from premortem.core.command import Command
from premortem.core.engine import Engine
from premortem.core.incident import Incident
from premortem.core.ladder import Relation, Rung
from premortem.core.plan import BoundEntry, BoundWatch, Plan
from premortem.core.risk import Watch
from premortem.core.signal import Signal
from premortem.parts.detectors import NonFinite, Threshold
from premortem.run.sabotage.plant import Lever, Plant, steady, wavy

HOT, NAN, DISK = frozenset({"hot"}), frozenset({"not a number"}), frozenset({"full"})
SIGNALS = (
    Signal("heat", "K", banded=True),
    Signal("gauge", ""),
    Signal("disk", "", higher_is_worse=False),
    Signal("valve_seen", ""),
)


def heat_rungs() -> tuple[Rung, ...]:
    quick = {"confirm": 4, "deadline": ticks(12), "settle": ticks(1)}
    return (
        Rung("cool", "valve", Override("scale", 0.5), HOT, tries=2, **quick),
        Rung("try the other pump", "pump", Override("choose", "B"), HOT, Relation.ALTERNATIVE, **quick),
        Rung("restore", "weights", Override("choose", "last good"), HOT | NAN, Relation.IRREVERSIBLE, **quick),
    )


def entry(name: str, rungs: tuple[Rung, ...], **more) -> BoundEntry:
    return BoundEntry(name, rungs, **{"relapse_watch": ticks(10), **more})


def default_entries() -> dict[str, BoundEntry]:
    stop = Rung("stop", "run", Override("choose", "stopped"), frozenset({"*"}), ends_run=True)
    prune = Rung("prune", "shelf", Override("cap", 3.0), DISK, confirm=3, deadline=ticks(9), settle=ticks(1))
    return {"HEAT": entry("HEAT", heat_rungs(), contingency=stop), "DISK": entry("DISK", (prune,))}


def watches() -> tuple[BoundWatch, ...]:
    return (
        BoundWatch("HEAT", "t/heat", Watch("too hot", "heat", "hot", lambda: Threshold(yellow=1.5, red=2.0)), 0),
        BoundWatch("HEAT", "t/heat", Watch("gauge", "gauge", "not a number", NonFinite), 1),
        BoundWatch("DISK", "t/disk", Watch("space", "disk", "full",
                                           lambda: Threshold(red=2.0, critical=0.5, below=1.0)), 2),
    )  # fmt: skip


@dataclass
class World:
    """The engine on a plant: every command is carried out at once unless ``answer`` says otherwise."""

    plan: Plan
    plant: Plant
    engine: Engine = None  # type: ignore[assignment]
    answer: Callable[[Command], Outcome | None] | None = None
    commands: list[Command] = field(default_factory=list)
    held_back: list[Command] = field(default_factory=list)
    conditions: dict[str, bool | None] = field(default_factory=dict)
    keeps: bool = True

    def __post_init__(self) -> None:
        self.engine = Engine(self.plan)

    @property
    def events(self) -> list[str]:
        return [c.record.event for c in self.commands if c.verb != "read"]

    def records(self, event: str) -> list[dict]:
        return [c.record.data for c in self.commands if c.record.event == event]

    @property
    def turned(self) -> list[str]:
        return [c.record.data["rung"] for c in self.commands if c.verb == "turn"]

    @property
    def incident(self) -> Incident:
        return self.engine.incidents[-1]

    def phase(self, number: int = 1) -> str:
        return self.engine.incidents[number - 1].phase.value if len(self.engine.incidents) >= number else ""

    def run(self, num_ticks: int, *, until: str = "") -> World:
        for _ in range(num_ticks):
            self.plant.advance()
            row = self.plant.row(self.plan.signals, self.plan.witnesses)
            self.carry_out(self.engine.observe(row, self.plant.tick, float(self.plant.tick)))
            if until == "held back" and self.held_back:
                break
            if until and any(i.phase.value == until for i in self.engine.incidents):
                break
        return self

    def carry_out(self, commands: list[Command]) -> None:
        waiting = list(commands)
        while waiting:
            command = waiting.pop(0)
            self.commands.append(command)
            if not command.awaits_outcome:
                continue
            outcome = self.answer(command) if self.answer else self.do(command)
            if outcome is None:
                self.held_back.append(command)
            else:
                waiting = self.engine.outcome(command.number, outcome) + waiting

    def do(self, command: Command) -> Outcome:
        target = command.target
        if command.verb == "keep":
            return Outcome(self.keeps)
        if command.verb == "ask":
            return Outcome(self.conditions[target.condition])
        lever = self.plant.levers[target.control]
        if command.verb == "read":
            return Outcome(True, lever.read())
        if command.verb == "undo":
            lever.undo(target.owner)
        else:
            lever.turn(target.owner, target.override)
            if target.owner.rung in self.plant.one_shot:
                self.plant.carried_out(target.owner.rung)
        return Outcome(True)

    def restart(self, *, levers_too: bool = True, plan: Plan | None = None) -> World:
        """A new process: the memory goes through JSON; what is in the process alone is lost."""
        state = json.loads(json.dumps(self.engine.state()))
        if levers_too:
            for lever in self.plant.levers.values():
                for owner in lever.stack.owners:
                    lever.stack.remove(owner)
        self.plan = plan or self.plan
        self.engine = Engine(self.plan)
        self.held_back.clear()
        self.carry_out(self.engine.load(state))
        return self


def make_world(*, cures: tuple[str, ...] = ("cool",), entries: dict[str, BoundEntry] | None = None, **plan) -> World:
    levers = {
        "valve": Lever(1.0), "pump": Lever("A"), "weights": Lever("nothing"), "run": Lever("on"), "shelf": Lever(9.0),
    }  # fmt: skip
    plant = Plant(
        healthy={"heat": wavy(1.0), "gauge": steady(0.0), "disk": steady(9.0)},
        sick={"heat": wavy(3.0)}, levers=levers, cures=frozenset(cures), one_shot=frozenset({"restore"}),
    )  # fmt: skip
    found = Plan(
        SIGNALS, watches(), entries or default_entries(), {n: lever.read() for n, lever in levers.items()},
        {"valve": "valve_seen"}, probation=12,
    )  # fmt: skip
    return World(replace(found, **plan), plant)
