"""Binds a register to a workload in three passes: schema, risk, workload (kernel decision 11).

The first pass is in ``registers``; here an entry's names, types and ranges are held against its risks, then
its signals and controls against the workload. A missing control makes a rung unavailable and is reported; a
missing required signal is an error.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from premortem.core.clock import Duration
from premortem.core.errors import ConfigError
from premortem.core.ladder import Relation, Rung
from premortem.core.plan import BoundEntry, BoundWatch, Plan
from premortem.core.risk import Risk, Watch
from premortem.core.workload import Workload
from premortem.registers.schema import Entry, RiskUse, RungUse, Scalar
from premortem.run.discover import find_risk
from premortem.run.suggest import closest


@dataclass(frozen=True, slots=True)
class BoundRisk:
    """A risk with its parameters resolved."""

    id: str
    risk: Risk[Any]
    params: Any

    @property
    def watches(self) -> tuple[Watch, ...]:
        """Its watches under these parameters."""
        return self.risk.watches(self.params)

    @property
    def rungs(self) -> tuple[Rung, ...]:
        """Its rungs under these parameters, in default order."""
        return self.risk.rungs(self.params)


def bind_risks(entry: Entry, where: str) -> tuple[BoundRisk, ...]:
    """Second pass: names, types and ranges of an entry's risks and parameters."""
    return tuple(_bind_risk(use, f"{where}.risks[{i}]") for i, use in enumerate(entry.risks))


def bind_ladder(entry: Entry, risks: tuple[BoundRisk, ...], where: str) -> tuple[Rung, ...]:
    """Second pass: the entry's ladder over the rungs that its risks know; an empty one takes their default."""
    known: dict[str, Rung] = {}
    for rung in (rung for risk in risks for rung in risk.rungs):
        first = known.get(rung.name, rung)
        # one rung of two risks mends what either says, by the settings of the first
        known[rung.name] = dataclasses.replace(first, mends=first.mends | rung.mends)
    if not entry.ladder:
        return tuple(known.values())
    return tuple(_bind_rung(use, known, f"{where}.ladder[{i}]") for i, use in enumerate(entry.ladder))


def bind(entries: Iterable[Entry], workload: Workload, where: str, *, probation: int = 30) -> Plan:
    """Third pass: the entries that watch this kind of workload, as the kernel's plan.

    Raises:
        ConfigError: with path, value, allowed names and the closest match.
    """
    slots = {signal.name: i for i, signal in enumerate(workload.signals)}
    bound: dict[str, BoundEntry] = {}
    watches: list[BoundWatch] = []
    gaps: list[str] = []
    for i, entry in enumerate(entries):
        at = f"{where}: $.entries[{i}]({entry.id})"
        risks = tuple(r for r in bind_risks(entry, at) if r.risk.workload == workload.kind)
        if not risks:
            continue
        rungs = bind_ladder(entry, risks, at)
        bound[entry.id] = BoundEntry(
            entry.id, rungs, _contingency(risks), Duration.parse(entry.relapse_watch, f"{at}.relapse_watch"),
            entry.max_incidents, Duration.parse(entry.per, f"{at}.per"), entry.carry_out == "all",
        )  # fmt: skip
        gaps += [
            f"{entry.id}: the rung {r.name!r} is unavailable: no control {r.control!r}"
            for r in rungs
            if r.control not in workload.controls
        ]
        for risk in risks:
            watches += _bind_watches(entry, risk, slots, gaps, at)
        seen = {w.watch.name for w in watches if w.entry == entry.id}
        gaps += [
            f"{entry.id}: the rung {r.name!r} is taken off after recovery without asking whether its cause is gone: no "
            f"watch {r.peel_after!r}"
            for r in rungs
            if r.peel_after is not None and r.peel_after not in seen
        ]
    bases = {name: control.read() for name, control in workload.controls.items()}
    return Plan(workload.signals, tuple(watches), bound, bases, workload.witnesses, probation, gaps=tuple(gaps))


def _bind_watches(
    entry: Entry, risk: BoundRisk, slots: Mapping[str, int], gaps: list[str], where: str
) -> list[BoundWatch]:
    bound = []
    for watch in risk.watches:
        if watch.signal in slots:
            bound.append(BoundWatch(entry.id, risk.id, watch, slots[watch.signal]))
        elif watch.required:
            raise ConfigError(
                f"{where}: the risk {risk.id} needs the signal {watch.signal!r} and the workload offers "
                f"{', '.join(sorted(slots))}{closest(watch.signal, slots)}; offer it, or take the risk out of the entry"
            )
        else:
            gaps.append(f"{entry.id}: {watch.name} is not watched: no signal {watch.signal!r}")
    return bound


def _contingency(risks: tuple[BoundRisk, ...]) -> Rung | None:
    """The first risk's, for what any of them says it is for."""
    found = [rung for risk in risks if (rung := risk.risk.contingency(risk.params)) is not None]
    if not found:
        return None
    return dataclasses.replace(found[0], mends=frozenset().union(*(rung.mends for rung in found)))


def _bind_risk(use: RiskUse, where: str) -> BoundRisk:
    risk = find_risk(use.risk, f"{where}.risk").load()
    fields = {f.name: f for f in dataclasses.fields(risk.params)}
    values: dict[str, Scalar] = {}
    for key, value in use.params.items():
        if key not in fields:
            raise ConfigError(
                f"{where}.params: found the unknown parameter {key!r} of {use.risk}, "
                f"expected one of {', '.join(fields)}{closest(key, fields)}"
            )
        values[key] = _typed(value, type(fields[key].default), f"{where}.params.{key}")
    try:
        params = risk.params(**values)
    except ValueError as error:
        raise ConfigError(f"{where}.params: {error}") from error
    bound = BoundRisk(use.risk, risk, params)
    try:  # impossible thresholds are found here, and not in the middle of a run
        for watch in bound.watches:
            watch.detector()
        _ = bound.rungs
    except ValueError as error:
        raise ConfigError(f"{where}.params: {error}") from error
    return bound


def _typed(value: Scalar, expected: type, where: str) -> Scalar:
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not expected:
        raise ConfigError(f"{where}: found {value!r}, expected a {expected.__name__}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where}: found {value!r}, expected a finite number")
    return value


def _bind_rung(use: RungUse, known: Mapping[str, Rung], where: str) -> Rung:
    if use.rung not in known:
        raise ConfigError(
            f"{where}.rung: found the unknown rung {use.rung!r}, expected one of "
            f"{', '.join(map(repr, known))}{closest(use.rung, known)}"
        )
    rung = known[use.rung]
    changes: dict[str, Any] = {}
    if use.by is not None:
        if isinstance(use.by, str) != isinstance(rung.override.by, str):
            kind = "a name" if isinstance(rung.override.by, str) else "a number"
            raise ConfigError(f"{where}.by: found {use.by!r}, expected {kind} for {rung.name!r}")
        changes["override"] = dataclasses.replace(rung.override, by=use.by)
    readers: tuple[tuple[str, Callable[[Any, str], Any]], ...] = (
        ("tries", lambda value, _: value),
        ("confirm", lambda value, _: value),
        ("relation", lambda value, _: Relation(value)),
        ("settle", Duration.parse),
        ("deadline", Duration.parse),
    )
    for name, read in readers:
        given = getattr(use, name)
        if given is not None:
            changes[name] = read(given, f"{where}.{name}")
    if use.request and rung.due is None:
        changes["due"] = changes.get("deadline", rung.deadline)
    return dataclasses.replace(rung, **changes)
