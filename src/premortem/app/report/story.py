"""The marks on a run's curves: the fault, what was noticed, each rung, the verdict."""

from __future__ import annotations

import math
from dataclasses import replace

from premortem.app.report.curve import COLOURS, Drawing, Mark
from premortem.app.report.gather import Curve, Gathered
from premortem.run.evidence import RungTried, RunView

_TITLES = {"loss": ("Training loss", "loss (nats, log scale)"), "grad_norm": ("Gradient norm", "2-norm (log scale)")}
_FAULT, _SEEN, _RUNG, _GOOD = "#8250df", "#d1492e", "#b7791f", "#1a7f37"


def drawings(found: Gathered) -> list[Drawing]:
    """One drawing for each signal of the last run."""
    last = found.last
    if last is None:
        return []
    marks = _marks(found, last)
    bare = [replace(mark, word="") for mark in marks]
    return [Drawing(*_TITLES[s], arms, marks if s == "loss" else bare) for s, arms in found.curves.items()]


def loss_drawing(found: Gathered) -> Drawing | None:
    """The loss of the last run, guarded and unguarded."""
    arms: dict[str, Curve] = found.curves.get("loss", {})
    last = found.last
    return Drawing("The same fault on the same run, with and without the guard", _TITLES["loss"][1], arms,
                   _marks(found, last)) if arms and last is not None else None  # fmt: skip


def _marks(found: Gathered, last: RunView) -> list[Mark]:
    marks = marks_of(last)
    for arm, curve in found.curves.get("loss", {}).items():
        lost = _lost_at(curve)
        marks += [Mark(lost, f"{arm}: not a number from here on", COLOURS[arm])] if lost is not None else []
    return sorted(marks, key=lambda mark: mark.tick)


def _lost_at(curve: Curve) -> int | None:
    """Where a curve stops being a number and never is one again."""
    finite = [tick for tick, value in zip(curve.ticks, curve.values, strict=True) if math.isfinite(value)]
    after = [tick for tick in curve.ticks if not finite or tick > finite[-1]]
    return after[0] if after else None


def marks_of(run: RunView) -> list[Mark]:
    """In order of time."""
    marks = [Mark(f.tick, "fault put on", _FAULT) for f in run.faults if "put on" in f.words]
    for incident in run.incidents:
        marks.append(Mark(incident.tick, "noticed", _SEEN))
        marks += [Mark(rung.tick, rung.rung, _RUNG) for rung in _once(incident.rungs)]
        if incident.ticks is not None:
            marks.append(Mark(incident.tick + incident.ticks, "recovery verified", _GOOD))
    return sorted(marks, key=lambda mark: mark.tick)


def _once(rungs: list[RungTried]) -> list[RungTried]:
    """Tries of one rung within one tick are one mark."""
    return [*{(rung.rung, rung.tick): rung for rung in rungs}.values()]
