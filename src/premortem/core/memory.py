"""What the guard remembers over a restart: incidents, ladder positions, tries, latches, expected settings.

It lives in the ledger and is never rolled back with a checkpoint (kernel decision 8, law 11).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from premortem.core.action import Owner
from premortem.core.clock import Now
from premortem.core.detector import Level
from premortem.core.incident import Incident, Phase, Standing
from premortem.core.ladder import Rung

if TYPE_CHECKING:
    from premortem.core.engine import Engine


def memory(engine: Engine) -> dict[str, object]:
    """The engine's memory as plain JSON data."""
    names = engine.observer.names
    return {
        "now": [engine.desk.tick, engine.desk.seconds],
        "incidents": [{**i.state(), "watches": [names[w] for w in sorted(i.watches)]} for i in engine.incidents],
        "climbing": None if engine.climbing is None else engine.climbing.number,
        "queue": [i.number for i in engine.queue],
        "latched": {entry: [names[w] for w in watches] for entry, watches in engine.latched.state().items()},
        "settings": {name: stack.state() for name, stack in engine.site.stacks.items() if stack.owners},
        "baseline": engine.baseline.state(),
    }


def load_memory(engine: Engine, state: Mapping[str, object]) -> list[tuple[str, Owner]]:
    """Resume; returns what stands for a rung that the register no longer knows, which must be undone."""
    saved = cast("dict[str, Any]", state)
    engine.desk.tick, engine.desk.seconds = saved["now"]
    index = {name: i for i, name in enumerate(engine.observer.names)}
    engine.incidents = [_incident(engine, row, index) for row in saved["incidents"]]
    by_number = {i.number: i for i in engine.incidents}
    engine.climbing = by_number.get(saved["climbing"])
    engine.queue = [by_number[n] for n in saved["queue"]]
    for entry, watches in saved["latched"].items():
        engine.latched.load(entry, {index[w] for w in watches if w in index})
    engine.baseline.load(saved["baseline"])
    return _strangers(engine, saved["settings"], by_number)


def window_in_flight(engine: Engine) -> dict[str, object] | None:
    """How far the climbing incident's verification or relapse watch has come; ``None`` where neither is open.

    It is no part of :func:`memory`: a workload that died with its process must be seen healthy anew. Only where the
    workload lives on between two processes, as a file or a repository does, may a window go on (kernel decision 2).
    """
    incident = engine.climbing
    window = None if incident is None else incident.window
    if incident is None or window is None:
        return None
    since, settled = incident.since, window.settled
    return {
        "incident": incident.number, "phase": incident.phase.value, "rung": incident.current and incident.current.name,
        "opened": [window.opened.tick, window.opened.seconds],
        "settled": None if settled is None else [settled.tick, settled.seconds],
        "since": None if since is None else [since.tick, since.seconds],
        "green": window.green, "against": window.against, "held": window.held, "sums": dict(window.sums),
    }  # fmt: skip


def go_on_with_window(engine: Engine, saved: Mapping[str, Any]) -> None:
    """Count on where :func:`window_in_flight` was; to be called once the engine is loaded and its settings are read.

    Raises:
        KeyError: a number is missing.
    """
    incident = engine.climbing
    window = None if incident is None else incident.window
    if incident is None or window is None:
        return
    rung = incident.current and incident.current.name
    if (saved["incident"], saved["phase"], saved["rung"]) != (incident.number, incident.phase.value, rung):
        return  # a setting had to be turned again, or it stands elsewhere: what was counted is not about this
    window.opened = Now(*saved["opened"])
    window.settled = None if saved["settled"] is None else Now(*saved["settled"])
    incident.since = None if saved["since"] is None else Now(*saved["since"])
    window.green, window.against, window.held = saved["green"], saved["against"], saved["held"]
    window.sums = dict(saved["sums"])


def _strangers(
    engine: Engine, settings: Mapping[str, Any], incidents: Mapping[int, Incident]
) -> list[tuple[str, Owner]]:  # fmt: skip
    strangers = []
    for name, saved in settings.items():
        stack = engine.site.stacks.get(name)
        if stack is None:
            engine.desk.note("guard_fault", "", None, what=f"the control {name!r} is gone; its overrides are dropped")
            continue
        stack.load(saved)
        stack.base = saved["base"]
        for owner in stack.owners:
            incident = incidents.get(owner.incident)
            if incident is None or owner.rung not in rungs_of(engine, incident.entry):
                stack.remove(owner)
                strangers.append((name, owner))
    return strangers


def rungs_of(engine: Engine, entry: str) -> dict[str, Rung]:
    """Every rung of an entry by name; none where the register no longer has the entry."""
    bound = engine.plan.entries.get(entry)
    return {} if bound is None else {rung.name: rung for rung in bound.all_rungs}


def _incident(engine: Engine, row: dict[str, Any], index: Mapping[str, int]) -> Incident:
    rungs = rungs_of(engine, row["entry"])
    incident = Incident(row["number"], row["entry"], Now(*row["opened"]), Level(row["level"]))
    incident.symptoms = set(row["symptoms"])
    incident.watches = {index[name] for name in row["watches"] if name in index}
    incident.tried = dict(row["tried"])
    incident.standing = [Standing(rungs[n], incident.opened) for n in row["standing"] if n in rungs]
    incident.current = rungs.get(row["current"])
    incident.phase = Phase(row["phase"])
    incident.since = None if row["since"] is None else Now(*row["since"])
    incident.verdict = None if row["verdict"] is None else Phase(row["verdict"])
    for name in ("relapses", "recovered_after", "reason", "hold_peel", "judged"):
        setattr(incident, name, row[name])
    for name in ("to_ask", "carried", "missed"):
        setattr(incident, name, list(row[name]))
    lost = [n for n in row["standing"] if n not in rungs]
    if lost:
        engine.desk.note("guard_fault", row["entry"], incident, what=f"unknown rungs stand: {', '.join(lost)}")
    return incident
