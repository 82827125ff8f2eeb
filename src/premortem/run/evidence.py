"""Reads the ledger into what people ask for: runs, incidents with their timelines, and what was not watched.

Nothing here is remembered elsewhere: what a report or a command shows is read from the evidence each time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Literal, cast

from premortem.core.evidence import Plain, Record
from premortem.ledger.ledger import ALL, Filters, Ledger, Receipt, Row
from premortem.run.words import in_words

if TYPE_CHECKING:
    from premortem.run.training import GuardedTraining

OPEN = "open"
_VERDICTS = {"closed", "held", "handed_over"}


@dataclass(frozen=True, slots=True)
class Line:
    """One row of a timeline: when, what happened in words, and the hash that proves it.

    ``wall`` is in Unix seconds.
    """

    seq: int
    wall: float
    tick: int
    event: str
    words: str
    hash: str


@dataclass(slots=True)
class RungTried:
    """One try of one rung; ``verdict`` is ``helped``, ``failed``, or empty where none was given."""

    rung: str
    tick: int
    verdict: str = ""
    why: str = ""


@dataclass(slots=True)
class IncidentView:
    """One incident of the ledger. ``number`` counts over the whole ledger, ``own`` within its run.

    ``ticks`` is how long it took from the first finding to the verified recovery.
    """

    number: int
    run: str
    own: int
    entry: str
    level: str
    because: str
    tick: int
    wall: float
    verdict: str = OPEN
    after_rung: str = ""
    ticks: int | None = None
    why: str = ""
    relapses: int = 0
    rungs: list[RungTried] = field(default_factory=list)
    timeline: list[Line] = field(default_factory=list)

    def to_json(self) -> dict[str, Plain]:
        """Plain data, timeline included."""
        return cast("dict[str, Plain]", asdict(self))


@dataclass(slots=True)
class RunView:
    """One guarded run of the ledger. ``outcome`` and ``twin`` are known where the main job wrote them."""

    run: str
    began: float
    ended: float | None = None
    steps: int | None = None
    why: str = ""
    outcome: float | None = None
    twin: str = ""
    twin_outcome: float | None = None
    unwatched: list[str] = field(default_factory=list)
    guard_faults: list[str] = field(default_factory=list)
    faults: list[Line] = field(default_factory=list)
    incidents: list[IncidentView] = field(default_factory=list)
    num_findings: int = 0
    last_good: int | None = None
    """The tick at which the newest checkpoint with a good mark was saved."""
    last_hash: str = ""

    def to_json(self) -> dict[str, Plain]:
        """Plain data."""
        return cast("dict[str, Plain]", asdict(self))


def runs(ledger: Ledger) -> list[RunView]:
    """Every guarded run, oldest first, with its incidents; raises ``StageError`` for an unreadable ledger."""
    found: dict[str, RunView] = {}
    reader = _IncidentReader()
    for row in ledger.records(ALL):
        if row.record.event == "run" and row.run not in found:
            found[row.run] = RunView(row.run, row.wall)
        view = found.get(row.run)
        incident = reader.take(row)
        if view is not None:
            _take_run(view, row)
            if incident is not None:
                view.incidents.append(incident)
    return [*found.values()]


def incidents(ledger: Ledger) -> list[IncidentView]:
    """Every incident, oldest first; raises ``StageError`` where the ledger cannot be read."""
    reader = _IncidentReader()
    return [incident for row in ledger.records(ALL) if (incident := reader.take(row)) is not None]


def lines(rows: Iterable[Row]) -> list[Line]:
    """Rows in words, without those that say nothing to people."""
    return [_line(row) for row in rows if in_words(row.record)]


def proofs(ledger: Ledger) -> dict[str, Row]:
    """The latest proof of each entry that has one, by entry."""
    return {row.record.entry: row for row in ledger.records(Filters(events=("proof",)))}


def request(ledger: Ledger, event: Literal["acknowledged", "rebaselined"], entry: str, who: str) -> Receipt:
    """Ask the guard of the ledger's run to release an entry's latch, or to accept a new normal.

    It is evidence first: the guard honours it when it next asks, at the latest on resume.
    """
    return ledger.append(Record(event, entry, None, 0, 0.0, {"who": who, "asked": True}))


def open_requests(ledger: Ledger, run: str) -> list[Row]:
    """What people asked of a run and its guard has not done yet, oldest first."""
    waiting: dict[tuple[str, str], Row] = {}
    for row in ledger.records(Filters(events=("acknowledged", "rebaselined"), run=run)):
        key = (row.record.event, row.record.entry)
        if row.record.data.get("asked") is True:
            waiting[key] = row
        else:
            waiting.pop(key, None)
    return sorted(waiting.values(), key=lambda row: row.seq)


def honour(run: GuardedTraining) -> None:
    """Do what people asked for in the ledger: release a latch, accept a new normal (kernel decision 4)."""

    def asked() -> list[tuple[str, str, str]]:
        rows = open_requests(run.ledger, run.driver.run)
        return [(row.record.event, row.record.entry, str(row.record.data.get("who", "unknown"))) for row in rows]

    for event, entry, who in run.company.peers.by_first(asked):
        if event == "acknowledged":
            run.driver.carry_out(run.engine.acknowledge(entry, who))
        else:
            run.driver.carry_out(run.engine.rebaseline(who))


# --- inside ------------------------------------------------------------------------------------


class _IncidentReader:
    """Follows rows in order; gives each incident when it opens, and fills it in afterwards."""

    def __init__(self) -> None:
        self._live: dict[tuple[str, int], IncidentView] = {}
        self._count = 0

    def take(self, row: Row) -> IncidentView | None:
        record = row.record
        if record.incident is None:
            return None
        key, opened = (row.run, record.incident), None
        if record.event == "opened":
            self._count += 1
            level, because = str(record.data.get("level", "")), str(record.data.get("because", ""))
            opened = IncidentView(self._count, *key, record.entry, level, because, record.tick, row.wall)
            self._live[key] = opened
        if key in self._live:
            _take(self._live[key], row)
        return opened


def _take(incident: IncidentView, row: Row) -> None:
    record, data = row.record, row.record.data
    if in_words(record):
        incident.timeline.append(_line(row))
    if record.event == "intent" and data.get("verb") == "turn":
        incident.rungs.append(RungTried(str(data["rung"]), record.tick))
    elif record.event == "verified":
        _judge_rung(incident, data)
    elif record.event == "relapse":
        incident.relapses += 1
    elif record.event == "recovered":
        incident.ticks = record.tick - incident.tick
    elif record.event in _VERDICTS:
        incident.verdict = str(data.get("verdict", "handed over"))
        incident.after_rung = str(data.get("after_rung", ""))
        incident.why = str(data.get("why", ""))


def _judge_rung(incident: IncidentView, data: dict[str, Plain]) -> None:
    for tried in reversed(incident.rungs):
        if tried.rung == data.get("rung"):
            tried.verdict, tried.why = str(data.get("verdict", "")), str(data.get("why", ""))
            return


def _take_run(view: RunView, row: Row) -> None:
    record, data = row.record, row.record.data
    view.last_hash = row.hash
    if record.event == "run":
        _take_milestone(view, row.wall, data)
    elif record.event == "finding":
        view.num_findings += 1
    elif record.event == "good":
        saved_at = data.get("saved_at")
        view.last_good = saved_at if isinstance(saved_at, int) else None
    elif record.event == "fault":
        view.faults.append(_line(row))
    elif record.event == "unwatched":
        _once(view.unwatched, str(data.get("what", "")))
    elif record.event == "guard_fault":
        _once(view.guard_faults, str(data.get("what", "")))


def _take_milestone(view: RunView, wall: float, data: dict[str, Plain]) -> None:
    what = data.get("what")
    if what == "ended":
        steps = data.get("steps")
        view.ended, view.why = wall, str(data.get("why", ""))
        view.steps = steps if isinstance(steps, int) else None
    elif what == "outcome":
        view.outcome = _number(data.get("value"))
    elif what == "twin":
        view.twin, view.twin_outcome = str(data.get("run", "")), _number(data.get("value"))


def _number(value: Plain) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _once(words: list[str], more: str) -> None:
    if more not in words:
        words.append(more)


def _line(row: Row) -> Line:
    return Line(row.seq, row.wall, row.record.tick, row.record.event, in_words(row.record), row.hash)
