"""A replay in plain data: what was found, when, and what could not be watched. No rung is said to have helped."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import cast

from premortem.core.evidence import Plain
from premortem.run.replay.heard import Alarm
from premortem.run.replay.replay import Replayed


@dataclass(frozen=True, slots=True)
class Rate:
    """Events per 1,000 observations, with the one-sided upper limit at 95 % for Poisson counts."""

    events: int
    per_1000: float
    at_most: float


@dataclass(frozen=True, slots=True)
class Delay:
    """How late the trouble was seen that began at ``onset``; ``None`` where it was not seen.

    ``before`` counts alarms that began earlier: they were false, or the onset is.
    """

    onset: float
    seen: float | None
    steps: float | None
    by: str
    before: int


def rate(events: int, observations: int) -> Rate:
    """How often something came."""
    return Rate(events, 1000.0 * events / observations, 1000.0 * poisson_upper(events) / observations)


def poisson_upper(events: int) -> float:
    """The largest mean under which so few events still come in 5 % of all cases; 3.0 for none.

    >>> round(poisson_upper(0), 2)
    3.0
    """
    low, high = float(events), events + 6.0 * math.sqrt(events + 1.0) + 6.0
    for _ in range(60):
        middle = (low + high) / 2.0
        chance = sum(math.exp(k * math.log(middle) - middle - math.lgamma(k + 1.0)) for k in range(events + 1))
        low, high = (middle, high) if chance > 0.05 else (low, middle)
    return high


def delay(found: Replayed, onset: float) -> Delay:
    """When trouble that began at this step was first RED: an alarm that stood then, or the next one."""
    after = [a for a in found.heard.alarms if a.step >= onset or a.until is None or a.until > onset]
    before = sum(a.step < onset for a in found.heard.alarms)
    first = min(after, key=lambda a: max(a.step, onset), default=None)
    if first is None:
        return Delay(onset, None, None, "", before)
    seen = max(first.step, onset)
    return Delay(onset, seen, seen - onset, f"{first.entry}: {first.watch}", before)


def notes_of(found: Replayed) -> list[str]:
    """What a person should know before trusting the figures, one sentence each."""
    told = [*found.columns.notes, *_of_steps(found)]
    if not found.columns.time:
        told.append("no column of time: one observation counts as one second")
    if found.clock.num_back:
        told.append(f"the time goes back {_count(found.clock.num_back, 'time')}: the clock went on from where it was")
    if found.inconclusive:
        told.append(f"inconclusive in the end, for want of values: {', '.join(found.inconclusive)}")
    if found.left_out:
        told.append(f"not replayed, for they watch no training run: {', '.join(found.left_out)}")
    return [*told, *found.notes, *(f"the guard itself: {what}" for what in found.heard.faults)]


def _of_steps(found: Replayed) -> list[str]:
    walk, told = found.walk, list[str]()
    if not found.columns.step:
        told.append("no column of steps: rows are counted from 0")
    elif walk.num_unnumbered:
        told.append(f"{_count(walk.num_unnumbered, 'row')} without a step: counted on from the row before")
    if walk.stride <= 0.0:
        told.append("most rows stand at the step of the row before: each is an observation all the same")
    elif walk.stride != 1.0:
        told.append(
            f"one observation every {walk.stride:g} steps: windows count observations, so they span as many more steps"
        )
    told += [f"step {before:g} is followed by {step:g} (observation {n})" + _restart(step, found)
             for n, before, step in walk.restarts]  # fmt: skip
    if walk.num_restarts > len(walk.restarts):
        told.append(_count(walk.num_restarts - len(walk.restarts), "more jump") + " back")
    if walk.num_gaps:
        distance, before = walk.longest
        told.append(f"{_count(walk.num_gaps, 'gap')} in the steps, the longest of {distance:g} after step {before:g}")
    return told


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _restart(step: float, found: Replayed) -> str:
    if step <= found.walk.first + found.walk.stride:
        return ": another run begins, with a fresh guard"
    return ": a restart; the detectors go on as they stood before that step, as a live guard's do from the checkpoint"


def to_json(found: Replayed, *, healthy: bool, onset: float | None) -> dict[str, Plain]:
    """All of it as plain data."""
    heard, walk = found.heard, found.walk
    plain: dict[str, object] = {
        "log": str(found.path), "format": found.kind, "register": found.register,
        "observations": walk.num_rows, "runs": found.num_runs,
        "first_step": walk.first, "last_step": walk.step, "seconds": found.clock.seconds,
        "columns": {**found.columns.signals, **{name: role for role, name in found.columns.roles.items()}},
        "not_read": [*found.columns.unread],
        "not_watched": found.unlogged,
        "inconclusive": [*found.inconclusive],
        "notes": notes_of(found),
        "incidents": heard.num_incidents, "alarms": heard.num_alarms,
        "first": None if not heard.alarms else _alarm(heard.alarms[0]),
        "timeline": [_alarm(alarm) for alarm in heard.alarms],
        "yellow": {name: {"times": int(n), "first": a, "last": b} for name, (n, a, b) in heard.warnings.items()},
        "nothing_was_turned": True,
    }  # fmt: skip
    if healthy:
        plain["false_alarms"] = asdict(rate(heard.num_incidents, walk.num_rows))
    if onset is not None:
        plain["onset"] = asdict(delay(found, onset))
    return cast("dict[str, Plain]", plain)


def _alarm(alarm: Alarm) -> dict[str, Plain]:
    plain = cast("dict[str, Plain]", asdict(alarm))
    return {("would_have_tried_first" if key == "rung" else key): value for key, value in plain.items()}
