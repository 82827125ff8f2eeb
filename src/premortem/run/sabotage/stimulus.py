"""Finds, for every shipped risk and symptom, series of values that its real detectors call healthy and sick.

Nothing is known of a risk beforehand: each signal's candidates are tried on the risk's own detectors until a
healthy series is GREEN for long, a sick one turns the symptom RED, and the healthy one mends it again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from premortem.core.clock import Duration
from premortem.core.detector import Foresees, HearsSilence, Level
from premortem.core.ladder import Rung
from premortem.core.risk import Risk, Watch
from premortem.parts.detectors import Threshold
from premortem.run.discover import find_risks
from premortem.run.sabotage.plant import Series, steady, wavy

WARM_UP = 160
"""Ticks of health before anything is broken: the slowest detector is conclusive by then."""
_SICK = (25, 400)
_PATIENCE = 240.0
_WELL_AGAIN = 200
_HEALTHY: tuple[Series, ...] = (wavy(1.0), steady(0.0), wavy(0.5), wavy(100.0), steady(1.0), wavy(10_000.0), wavy(0.01))
_STAND_IN = "stand-in"


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """A risk with a symptom that can be shown. ``shown`` are all symptoms that the sick series turns RED."""

    risk_id: str
    workload: str
    symptom: str
    shown: frozenset[str]
    watches: tuple[Watch, ...]
    rungs: tuple[Rung, ...]
    contingency: Rung | None
    healthy: dict[str, Series]
    sick: dict[str, Series]
    banded: frozenset[str]
    is_stand_in: bool = False


def subjects() -> tuple[list[Subject], list[str]]:
    """Every shipped risk by symptom, and in words what could not be shown."""
    found, gaps = [], []
    for risk_id, place in find_risks().items():
        risk = place.load()
        params = risk.params()
        wanted = sorted({s for rung in risk.rungs(params) for s in rung.mends if s != "*"})
        for symptom in wanted:
            subject = _subject(risk_id, risk, params, symptom)
            if subject is None:
                gaps.append(f"{risk_id}: no series turns {symptom!r} RED and mends it")
            else:
                found.append(subject)
    return found, gaps


def _subject(risk_id: str, risk: Risk[Any], params: object, symptom: str) -> Subject | None:
    watches = risk.watches(params)
    stand_in = not any(w.symptom == symptom for w in watches)
    if stand_in:  # this symptom needs a file that only a real run can write
        watches = (*watches, Watch(f"{_STAND_IN} for {symptom}", _STAND_IN, symptom, lambda: Threshold(red=2.0)))
    by_signal: dict[str, list[Watch]] = {}
    for watch in watches:
        by_signal.setdefault(watch.signal, []).append(watch)
    healthy = {signal: _healthy(group) for signal, group in by_signal.items()}
    for signal, group in by_signal.items():
        if not any(w.symptom == symptom for w in group):
            continue
        for well, sick in _pairs(group):
            shown = _shown(group, well, sick)
            if symptom in shown:
                return Subject(
                    risk_id, risk.workload, symptom, frozenset(shown), watches, tuple(map(_soon, risk.rungs(params))),
                    risk.contingency(params), {**healthy, signal: well}, {signal: sick},
                    frozenset(s for s, series in {**healthy, signal: well}.items() if series(1) != series(2)), stand_in,
                )  # fmt: skip
    return None


def _soon(rung: Rung) -> Rung:
    """An hour's patience is not what is broken here, and a tick is a second: a trial has shorter ones."""
    if rung.deadline.amount <= _PATIENCE:
        return rung
    return replace(rung, deadline=Duration(_PATIENCE, rung.deadline.unit))


def _pairs(group: list[Watch]) -> Iterator[tuple[Series, Series]]:
    for well in (w for w in _HEALTHY if _stays_well(group, w)):
        level = well(0) or 0.0
        finite = (wavy(30.0 * level), wavy(0.02 * level), steady(1.0), steady(0.0), wavy(3.0 * level), wavy(1e6))
        # at the limit itself no rung has a turn: one that is foreseen is shown from afar
        soon = (growing(level),) if any(isinstance(w.detector(), Foresees) for w in group) else ()
        yield from product((well,), (*soon, *finite, steady(math.nan), steady(math.inf)))


def growing(level: float) -> Series:
    """From the level upwards since health ended, by 1.2 % of it a tick."""
    return lambda tick: level * (1.0 + 0.012 * max(0, tick - WARM_UP))


def _healthy(group: list[Watch]) -> Series:
    """The first series that all watches of a signal accept; the last candidate where none fits."""
    return next((series for series in _HEALTHY if _stays_well(group, series)), _HEALTHY[-1])


def _stays_well(group: list[Watch], series: Series) -> bool:
    return all(max(_levels([w], [(series, 2 * WARM_UP)], WARM_UP)[0]) <= Level.GREEN for w in group)


def _shown(group: list[Watch], well: Series, sick: Series) -> set[str]:
    """Symptoms that the sick series turns RED, if it is well before and well again after, however long it lasted."""
    shown: set[str] = set()
    for length in _SICK:
        plan = [(well, WARM_UP), (sick, length), (well, _WELL_AGAIN)]
        begin, end = WARM_UP, WARM_UP + length
        now = set()
        for watch, levels in zip(group, _levels(group, plan, 0), strict=True):
            if max(levels[begin:end]) >= Level.RED:
                now.add(watch.symptom)
            if max(levels[-20:]) > Level.GREEN or min(levels[-20:]) < Level.GREEN:
                return set()
        shown = now if length == _SICK[0] else shown & now
        if not shown:
            break
    return shown


def _levels(group: list[Watch], plan: list[tuple[Series, int]], skip: int) -> list[list[int]]:
    """Each watch's levels over the plan; inconclusive is -1."""
    values = [series for series, length in plan for _ in range(length)]
    found = []
    for watch in group:
        detector = watch.detector()
        levels = []
        for tick, series in enumerate(values):
            value = series(tick)
            missing = value is None or (isinstance(detector, HearsSilence) and value != value)
            level = None if missing or value is None else detector.observe(value)
            levels.append(-1 if level is None else int(level))
        found.append(levels[skip:])
    return found
