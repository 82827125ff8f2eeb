"""What the types cannot say: ids once, durations with a unit, thresholds in order, gates that name real entries."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, field
from itertools import pairwise

from premortem.core.clock import Duration
from premortem.core.errors import ConfigError
from premortem.registers.mistake import Path, closest
from premortem.registers.schema import (
    Band,
    Checklist,
    Criterion,
    Entry,
    Escalation,
    Flag,
    Gate,
    RegisterFile,
    Response,
    Rollback,
    Rollout,
    RungUse,
    Threshold,
)
from premortem.registers.source import shorten

Found = tuple[Path, str]

_SHOWN = 100
"""Ids in one message."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What of a file has the right shape, each item under its position in its list.

    A file with a mistake of shape is still held against every rule that its sound parts allow.
    """

    ids: Set[str]
    entries: dict[int, Entry] = field(default_factory=dict)
    escalation: dict[int, Escalation] = field(default_factory=dict)
    responses: dict[int, Response] = field(default_factory=dict)
    bands: dict[int, Band] = field(default_factory=dict)
    gates: dict[int, Gate] = field(default_factory=dict)
    criteria: dict[int, Criterion] = field(default_factory=dict)
    flags: dict[int, Flag] = field(default_factory=dict)
    rollbacks: dict[int, Rollback] = field(default_factory=dict)
    checklists: dict[int, Checklist] = field(default_factory=dict)
    rollout: Rollout | None = None

    @classmethod
    def of(cls, register: RegisterFile) -> Parts:
        """All parts of a file that loaded."""
        return cls(
            ids={entry.id for entry in register.entries},
            entries=dict(enumerate(register.entries)),
            escalation=dict(enumerate(register.escalation)),
            responses=dict(enumerate(register.responses)),
            bands=dict(enumerate(register.bands)),
            gates=dict(enumerate(register.gates)),
            criteria=dict(enumerate(register.criteria)),
            flags=dict(enumerate(register.flags)),
            rollbacks=dict(enumerate(register.rollbacks)),
            checklists=dict(enumerate(register.checklists)),
            rollout=register.rollout,
        )


def broken_rules(parts: Parts) -> Iterator[Found]:
    """Every rule that is broken, with its path."""
    yield from _names(parts)
    for index, entry in parts.entries.items():
        yield from _entry(entry, ("entries", index))
    for index, gate in parts.gates.items():
        yield from _gate(gate, ("gates", index), parts.ids)
    for index, criterion in parts.criteria.items():
        figures = (("target", criterion.target), ("acceptable", criterion.acceptable), ("failed", criterion.failed))
        yield from _in_order(figures, criterion.better, ("criteria", index))
    for index, level in parts.escalation.items():
        yield from _duration(level.within, ("escalation", index, "within"), positive=True)
    for index, rollback in parts.rollbacks.items():
        yield from _duration(rollback.within, ("rollbacks", index, "within"), positive=True)
    for index, band in parts.bands.items():
        if band.over >= band.up_to:
            text = f"found over {band.over:g} and up_to {band.up_to:g}, expected over below up_to; swap them"
            yield ("bands", index, "over"), text
    if parts.rollout is not None:
        yield from _rollout(parts.rollout)


def _names(parts: Parts) -> Iterator[Found]:
    yield from _once(((i, e.id) for i, e in parts.entries.items()), "entries", "id")
    yield from _once(((i, g.name) for i, g in parts.gates.items()), "gates", "name")
    yield from _once(((i, c.name) for i, c in parts.criteria.items()), "criteria", "name")
    yield from _once(((i, f.name) for i, f in parts.flags.items()), "flags", "name")
    yield from _once(((i, e.level) for i, e in parts.escalation.items()), "escalation", "level")
    yield from _once(((i, r.level) for i, r in parts.responses.items()), "responses", "level")
    yield from _once(((i, r.name) for i, r in parts.rollbacks.items()), "rollbacks", "name")
    yield from _once(((i, c.name) for i, c in parts.checklists.items()), "checklists", "name")


def _once(names: Iterable[tuple[int, str]], section: str, key: str) -> Iterator[Found]:
    first: dict[str, int] = {}
    for index, name in names:
        if name in first:
            text = f"found {shorten(name)} again (first at $.{section}[{first[name]}]), expected it once; rename one"
            yield (section, index, key), text
        first.setdefault(name, index)


def _entry(entry: Entry, path: Path) -> Iterator[Found]:
    yield from _duration(entry.relapse_watch, (*path, "relapse_watch"), positive=True)
    yield from _duration(entry.per, (*path, "per"), positive=True)
    yield from _status(entry, path)
    for key in ("title", "owner", "outcome", "contingency", "drill"):
        if not getattr(entry, key).strip():
            yield (*path, key), "found empty text, expected some; every entry says this"
    if not entry.sees:
        yield (*path, "sees"), "found no threshold, expected at least one; say what raises a finding"
    for index, threshold in enumerate(entry.sees):
        yield from _threshold(threshold, (*path, "sees", index))
    yield from _ladder(entry, path)


def _status(entry: Entry, path: Path) -> Iterator[Found]:
    if entry.status == "active" and not entry.risks:
        yield (*path, "status"), "found 'active' without risks, expected risks to run; list them, or make it 'planned'"
    if entry.status == "planned" and entry.risks:
        text = "found risks under status 'planned', expected none; make it 'active', or take the risks out"
        yield (*path, "risks"), text
    seen: set[str] = set()
    for index, use in enumerate(entry.risks):
        if use.risk in seen:
            yield (*path, "risks", index, "risk"), f"found {use.risk!r} again, expected each risk once; merge the two"
        seen.add(use.risk)


def _ladder(entry: Entry, path: Path) -> Iterator[Found]:
    if not entry.ladder:
        yield (*path, "ladder"), "found no rung, expected at least one; say what is done first"
    seen: set[str] = set()
    for index, use in enumerate(entry.ladder):
        at = (*path, "ladder", index)
        if use.rung in seen:
            yield (*at, "rung"), f"found {shorten(use.rung)} again, expected each rung once; raise its 'tries'"
        seen.add(use.rung)
        yield from _rung(use, at)


def _rung(use: RungUse, path: Path) -> Iterator[Found]:
    if use.settle is not None:
        yield from _duration(use.settle, (*path, "settle"), positive=False)
    if use.deadline is not None:
        yield from _duration(use.deadline, (*path, "deadline"), positive=True)


def _threshold(threshold: Threshold, path: Path) -> Iterator[Found]:
    levels = (("yellow", threshold.yellow), ("red", threshold.red), ("critical", threshold.critical))
    figures = (("target", threshold.target), *levels)
    given = [(name, figure) for name, figure in figures if figure is not None]
    if not given and not threshold.note.strip():
        yield path, "found neither a figure nor a note, expected yellow, red, critical, target or a note; add one"
    yield from _in_order(given, threshold.better, path)


def _in_order(figures: Iterable[tuple[str, float]], better: str, path: Path) -> Iterator[Found]:
    """Each figure must not lie beyond the next worse one."""
    sign = 1 if better == "lower" else -1
    last_name, last = "", -math.inf
    for name, figure in figures:
        if sign * figure < last:
            text = (
                f"found {last_name} {sign * last:g} beyond {name} {figure:g} where {better} is better, "
                f"expected {last_name} first; swap the figures or mend 'better'"
            )
            yield (*path, last_name), text
        last_name, last = name, sign * figure


def _gate(gate: Gate, path: Path, ids: Set[str]) -> Iterator[Found]:
    if not (gate.proven or gate.measures or gate.requires):
        yield path, "found a gate that asks for no evidence, expected proven, measures or requires; add one"
    for index, name in enumerate(gate.proven):
        if name not in ids:
            known = sorted(ids)[:_SHOWN]
            text = f"found {shorten(name)}, expected the id of an entry of this register ({', '.join(known)})"
            yield (*path, "proven", index), text + closest(name, known)
    for index, measure in enumerate(gate.measures):
        figures = (("go", measure.go), ("no_go", measure.no_go))
        yield from _in_order(figures, measure.better, (*path, "measures", index))


def _rollout(rollout: Rollout) -> Iterator[Found]:
    yield from _duration(rollout.shadow, ("rollout", "shadow"), positive=True)
    yield from _duration(rollout.over, ("rollout", "over"), positive=True)
    shares = rollout.shares_pct
    if not shares or any(a >= b for a, b in pairwise(shares)):
        yield ("rollout", "shares_pct"), f"found {shares}, expected growing shares such as [5, 25, 100]; order them"


def _duration(text: str, path: Path, *, positive: bool) -> Iterator[Found]:
    try:
        length = Duration.parse(text)
    except ConfigError:
        yield (
            path,
            (
                f"found {shorten(text)}, expected a duration with a unit such as '20 ticks', '30 s', '15 min' or "
                "'1 assessment'; write the number and the unit"
            ),
        )
        return
    if not math.isfinite(length.amount) or (positive and length.amount <= 0):
        yield path, f"found {shorten(text)}, expected a duration above zero that ends; write another figure"
