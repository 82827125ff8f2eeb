"""The driver of a replay: a log's rows into the kernel of the live path, and nothing turned.

The plan comes from ``bind`` and the verdicts from ``Engine.observe``, as in a guarded run; here the clock is the
log's, and a command that awaits an outcome hears that nothing is known: there is no run to act on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from premortem.core.action import Outcome
from premortem.core.command import Command
from premortem.core.engine import Engine
from premortem.core.errors import ConfigError
from premortem.core.plan import Plan
from premortem.core.signal import Signal
from premortem.registers.schema import Entry
from premortem.run.bind import bind, bind_risks
from premortem.run.guard import Guard
from premortem.run.replay.columns import Columns, resolve
from premortem.run.replay.heard import Heard
from premortem.run.replay.log import Log
from premortem.run.replay.rewind import Rewind
from premortem.run.replay.sketch import Sketch
from premortem.run.replay.source import opened
from premortem.run.replay.walk import Clock, Walk, joined
from premortem.run.replay.workload import ReplayWorkload, offered_signals

_NO_RUN = Outcome(None, None, "a replay turns nothing")


@dataclass(slots=True)
class Replayed:
    """What a replay found. ``plan`` is what was bound."""

    path: Path
    kind: str
    register: str
    columns: Columns
    plan: Plan
    left_out: tuple[str, ...]
    """Active entries that watch something other than a training run."""
    walk: Walk = field(default_factory=Walk)
    heard: Heard = field(default_factory=Heard)
    loss: Sketch = field(default_factory=Sketch)
    clock: Clock = field(default_factory=Clock)
    num_runs: int = 1
    notes: list[str] = field(default_factory=list)
    inconclusive: list[str] = field(default_factory=list)
    """Watches of logged signals that said nothing in the end: too few values for them, or the last were missing."""

    @property
    def unlogged(self) -> dict[str, list[str]]:
        """Signals that the log does not hold, with the watches that were blind for it (law 2)."""
        held, found = {*self.columns.signals.values()}, dict[str, list[str]]()
        for bound in self.plan.watches:
            if bound.watch.signal not in held:
                found.setdefault(bound.watch.signal, []).append(f"{bound.entry}: {bound.watch.name}")
        return found


def replay(
    path: Path,
    register: str = "default",
    given: Mapping[str, str] | None = None,
    only: tuple[str, str] | None = None,
) -> Replayed:
    """Read a log from its first row to its last, in constant memory.

    Raises:
        ConfigError: for a log or a register that cannot be used, with the line.
    """
    guard = Guard(register)
    entries, left_out = _of_training(guard)
    offered = offered_signals(entries, guard.file.register)
    with opened(path, only) as log:
        columns = _columns(path, log, given or {}, offered)
        workload = ReplayWorkload(offered, columns.signals.values())
        plan = bind(entries, workload, guard.file.register)
        found = Replayed(path, log.kind, guard.file.register, columns, plan, left_out)
        _walk(log, found)
        found.notes += log.notes
    if not found.walk.num_rows:
        told = "" if only is None else f" with {only[0]}={only[1]}"
        raise ConfigError(f"{path}: found a header and no row{told}, expected at least one observation")
    if not found.loss.points():
        names = " or ".join(repr(name) for name, signal in found.columns.signals.items() if signal == "loss")
        raise ConfigError(
            f"{path}: found no figure under {names} in {found.walk.num_rows} rows, expected the training loss; "
            "name another column with --columns NAME=loss"
        )
    return found


def _of_training(guard: Guard) -> tuple[tuple[Entry, ...], tuple[str, ...]]:
    kinds = {e.id: {r.risk.workload for r in bind_risks(e, guard.file.register)} for e in guard.active}
    mine = tuple(e for e in guard.active if ReplayWorkload.kind in kinds[e.id])
    if not mine:
        raise ConfigError(
            f"register {guard.file.register}: found no active entry that watches a training run, expected one; "
            "name another with --register"
        )
    return mine, tuple(e.id for e in guard.active if e not in mine)


def _columns(path: Path, log: Log, given: Mapping[str, str], offered: Sequence[Signal]) -> Columns:
    try:
        return resolve(log.names, given, [signal.name for signal in offered])
    except ConfigError as error:
        where = "" if str(error).startswith("--") else f"{path}: "
        raise ConfigError(f"{where}{error}") from None


def _walk(log: Log, found: Replayed) -> None:
    """The loop: step, clock, kernel."""
    slots = {signal.name: slot for slot, signal in enumerate(found.plan.signals)}
    loss = slots["loss"]
    walk, draw = found.walk, found.loss.add
    to, at = walk.to, found.clock.at
    engine, rewind = Engine(found.plan), Rewind()
    observe = engine.observe
    for tick, (step, time, row) in enumerate(joined(log.rows(found.columns, slots)), 1):
        if to(step):
            if walk.begins_anew:
                engine = _begin_anew(found)
                observe = engine.observe
            rewind.back(walk.step, engine.observer)
        commands = observe(row, tick, at(time))
        if commands:
            _carry_out(engine, commands, found)
        draw(walk.step, row[loss])
        if tick == rewind.due:
            rewind.take(walk.step, engine.observer)
    held = {*found.columns.signals.values()}
    found.inconclusive = [
        f"{bound.entry}: {bound.watch.name}"
        for bound, level in zip(found.plan.watches, engine.observer.levels, strict=True)
        if level is None and bound.watch.signal in held
    ]


def _begin_anew(found: Replayed) -> Engine:
    """The log goes back to its start: another run, which gets a guard of its own, as a live one would."""
    found.num_runs += 1
    found.heard.begin_anew()
    found.clock.begin_anew()
    return Engine(found.plan)


def _carry_out(engine: Engine, commands: list[Command], found: Replayed) -> None:
    waiting = commands
    while waiting:
        command, *waiting = waiting
        found.heard.hear(command.record, found.walk.step, found.plan)
        if command.awaits_outcome:
            waiting = engine.outcome(command.number, _NO_RUN) + waiting
