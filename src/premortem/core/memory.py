"""What the guard remembers over a restart: incidents, ladder positions, tries, latches, expected settings.

It lives in the ledger and is never rolled back with a checkpoint (kernel decision 8, law 11).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from premortem.core.clock import Now
from premortem.core.detector import Level
from premortem.core.incident import Incident, Phase, Standing
from premortem.core.ladder import Rung

if TYPE_CHECKING:
    from premortem.core.engine import Engine


def memory(engine: Engine) -> dict[str, object]:
    """The engine's memory as plain JSON data."""
    return {
        "incidents": [i.state() for i in engine.incidents],
        "climbing": None if engine.climbing is None else engine.climbing.number,
        "queue": [i.number for i in engine.queue],
        "latched": sorted(engine.latched),
        "settings": {name: stack.state() for name, stack in engine.site.stacks.items()},
        "baseline": engine.baseline.state(),
    }


def load_memory(engine: Engine, state: Mapping[str, object]) -> None:
    """Resume. A rung that the register no longer knows is dropped from what stands, and noted."""
    saved = cast("dict[str, Any]", state)
    engine.incidents = [_incident(engine, row) for row in saved["incidents"]]
    by_number = {i.number: i for i in engine.incidents}
    engine.climbing = by_number.get(saved["climbing"])
    engine.queue = [by_number[n] for n in saved["queue"]]
    engine.latched = {entry: None for entry in saved["latched"] if entry in engine.plan.entries}
    for name, stack in saved["settings"].items():
        if name in engine.site.stacks:
            engine.site.stacks[name].load(stack)
    engine.baseline.load(saved["baseline"])


def _incident(engine: Engine, row: dict[str, Any]) -> Incident:
    rungs = _rungs(engine, row["entry"])
    incident = Incident(row["number"], row["entry"], Now(*row["opened"]), Level(row["level"]))
    incident.symptoms = set(row["symptoms"])
    incident.watches = {
        i
        for i in engine.observer.of_entry(row["entry"])
        if engine.observer.watches[i].watch.symptom in incident.symptoms
    }
    incident.tried = dict(row["tried"])
    incident.standing = [Standing(rungs[n], incident.opened) for n in row["standing"] if n in rungs]
    incident.current = rungs.get(row["current"])
    incident.phase = Phase(row["phase"])
    incident.relapses = row["relapses"]
    incident.recovered_after = row["recovered_after"]
    incident.reason = row["reason"]
    lost = [n for n in row["standing"] if n not in rungs]
    if lost:
        engine.desk.note("guard_fault", row["entry"], incident, what=f"unknown rungs stand: {', '.join(lost)}")
    return incident


def _rungs(engine: Engine, entry: str) -> dict[str, Rung]:
    bound = engine.plan.entries.get(entry)
    if bound is None:
        return {}
    rungs = [*bound.rungs, *([bound.contingency] if bound.contingency else [])]
    return {rung.name: rung for rung in rungs}
