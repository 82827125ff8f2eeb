"""Runs the cells: the real engine, driver and ledger on the plant, beside an oracle that knows the truth.

A verdict of recovery is wrong when at that moment the plant is ill, a setting that the verdict rests on is not
truly in force, a rung reported as peeled still is, or the evidence is not in the ledger's file.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from premortem.core.action import Control, Owner
from premortem.core.clock import ticks
from premortem.core.engine import Engine
from premortem.core.evidence import Record
from premortem.core.ladder import Rung
from premortem.core.plan import BoundEntry, BoundWatch, Plan
from premortem.core.signal import Signal
from premortem.ledger.ledger import Filters
from premortem.ledger.query import rows
from premortem.run.driver import Driver
from premortem.run.sabotage.cells import Cell
from premortem.run.sabotage.plant import Lever, Plant, PlantWorkload
from premortem.run.sabotage.saboteur import (
    BrokenControl,
    BrokenLedger,
    Timetable,
    broken_condition,
    remove_fault,
    with_condition,
)
from premortem.run.sabotage.stimulus import WARM_UP

ENTRY = "SABOTAGE-1"
_MAX_TICKS = 4000
_PATIENCE_S = 30.0
_IMPATIENCE_S = 0.03
_VERDICTS = frozenset({"recovered", "closed", "held"})
_EXTRA = "the sabotaged condition"


@dataclass(slots=True)
class Result:
    """What became of one cell. ``ended`` is the incident's verdict; empty where none came."""

    cell: Cell
    ended: str = ""
    after_rung: str = ""
    wrong: list[str] = field(default_factory=list)
    healthy_at_hand_over: bool = False
    why: str = ""
    num_ticks: int = 0


class Trial:
    """One cell, from a healthy plant to the incident's end."""

    def __init__(self, cell: Cell, folder: Path, *, witnessed: bool = True) -> None:
        self.cell = cell if cell.of("condition") is None else with_condition(cell, _EXTRA)
        self.result = Result(cell)
        self._rungs = {r.name: r for r in self._all_rungs()}
        self.plant = self._plant()
        self.time = Timetable(self.plant)
        self.workload, plan = self._bound(witnessed=witnessed)
        self.ledger = BrokenLedger(folder / "ledger.db", run="trial")
        self.engine = Engine(plan)
        self.driver = Driver(
            self.engine, self.workload, self.ledger, run="trial", clock=lambda: float(self.plant.tick),
            patience_s=_IMPATIENCE_S if cell.hangs else _PATIENCE_S,
        )  # fmt: skip
        self.driver.listen(self._hear)

    def run(self) -> Result:
        """Warm up, put the fault on, and let the kernel work until its verdict."""
        try:
            self._advance(WARM_UP)
            self.plant.fault_on = True
            self.ledger.timetable, self.ledger.mutant = self.time, self.cell.of("ledger")
            self._advance(_MAX_TICKS)
        finally:
            self.time.let_go()
            self.ledger.close()
        if self.engine.incidents:
            incident = self.engine.incidents[0]
            self.result.ended = incident.phase.value if incident.phase.is_over else ""
            self.result.after_rung, self.result.why = incident.recovered_after or "", incident.reason
            self.result.healthy_at_hand_over = incident.phase.value == "handed over" and not self.plant.is_ill
        self.result.num_ticks = self.plant.tick
        return self.result

    def _advance(self, num_ticks: int) -> None:
        for _ in range(num_ticks):
            self.plant.advance()
            self.time.tick()
            self.driver.tick(self.plant.row(self.workload.signals, self.workload.witnesses), self.plant.tick)
            if self.engine.incidents and self.engine.incidents[0].phase.is_over:
                return

    # --- the oracle --------------------------------------------------------------------------

    def _hear(self, record: Record) -> None:
        if record.event not in _VERDICTS:
            return
        if self.plant.is_ill:
            self._wrong(record, "the plant is ill")
        self._check_settings(record)
        if not self._is_kept(record):
            self._wrong(record, "its evidence is not in the ledger")
        if record.event == "recovered":
            remove_fault(self.cell.of("removal"), self.time)

    def _check_settings(self, record: Record) -> None:
        incident = self.engine.incidents[(record.incident or 1) - 1]
        truly = self.plant.owners()
        believed = {Owner(incident.number, s.rung.name) for s in incident.standing}
        for owner in sorted(believed - truly):
            self._wrong(record, f"{owner.rung!r} is not in force")
        left = {o for o in truly - believed if not self._rungs[o.rung].is_one_shot}
        for owner in sorted(left):
            self._wrong(record, f"{owner.rung!r} is still in force")
        after = incident.recovered_after
        if after and self._rungs[after].is_one_shot and after not in self.plant.done:
            self._wrong(record, f"{after!r} was never done")

    def _is_kept(self, record: Record) -> bool:
        wanted = Filters(events=(record.event,), incident=record.incident)
        return any(row.record.data == record.data for row in rows(self.ledger.path, wanted))

    def _wrong(self, record: Record, why: str) -> None:
        self.result.wrong.append(f"{record.event} at tick {record.tick}: {why}")

    # --- what is driven ----------------------------------------------------------------------

    def _all_rungs(self) -> tuple[Rung, ...]:
        subject = self.cell.subject
        return (*subject.rungs, *([subject.contingency] if subject.contingency else []))

    def _plant(self) -> Plant:
        subject, cell = self.cell.subject, self.cell
        names = [r.name for r in subject.rungs]
        below = names[names.index(cell.rung) :]
        cures = frozenset(below if cell.others_help else [cell.rung])
        if cell.of("condition") == "false success":
            cures -= {cell.rung}  # the condition is claimed to hold, and the rung does not help at all
        levers: dict[str, Lever] = {}
        for rung in self._all_rungs():
            levers.setdefault(rung.control, Lever(_base(rung)))
        return Plant(
            subject.healthy, subject.sick, levers, cures,
            frozenset(r.name for r in self._all_rungs() if r.is_one_shot),
        )  # fmt: skip

    def _bound(self, *, witnessed: bool) -> tuple[PlantWorkload, Plan]:
        subject, levers = self.cell.subject, self.plant.levers
        settings = {r.control for r in subject.rungs if not r.is_one_shot and not isinstance(_base(r), str)}
        witnesses = {name: f"{name} seen" for name in sorted(settings)} if witnessed else {}
        measured = [Signal(name, banded=name in subject.banded) for name in subject.healthy]
        signals = (*measured, *(Signal(name) for name in witnesses.values()))
        slots = {signal.name: i for i, signal in enumerate(signals)}
        watches = tuple(BoundWatch(ENTRY, subject.risk_id, w, slots[w.signal]) for w in subject.watches)
        entry = BoundEntry(ENTRY, subject.rungs, subject.contingency)
        plan = Plan(
            signals, watches, {ENTRY: entry}, {n: lever.read() for n, lever in levers.items()}, witnesses,
            patience=ticks(10_000),
        )  # fmt: skip
        mine = self._rungs[self.cell.rung].control
        broken: dict[str, Control] = {
            name: BrokenControl(lever, self.cell, self.time, is_of_rung=name == mine) for name, lever in levers.items()
        }
        return PlantWorkload(subject.workload, signals, broken, witnesses, self._conditions()), plan

    def _conditions(self) -> dict[str, Callable[[], bool | None]]:
        names = {r.condition for r in self._all_rungs() if r.condition}
        honest: dict[str, Callable[[], bool | None]] = {name: lambda: not self.plant.is_ill for name in names}
        mutant, condition = self.cell.of("condition"), self._rungs[self.cell.rung].condition
        if mutant is not None and condition is not None:
            honest[condition] = broken_condition(mutant, self.time)
        return honest


def _base(rung: Rung) -> float | str:
    """A setting that the rung's override changes."""
    by = rung.override.by
    if isinstance(by, str):
        return "nothing"
    if rung.override.kind == "scale":
        return 1.0
    # no other rung of the control chooses a half: what is broken must not look as if it were in force
    return by + 0.5 if rung.override.kind == "choose" else 10.0 * by + 1.0


def run_cells(cells: Iterable[Cell], *, witnessed: bool = True) -> list[Result]:
    """Run each cell on its own plant and its own ledger file."""
    shared = Path("/dev/shm")
    results = []
    for cell in cells:
        with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
            results.append(Trial(cell, Path(folder), witnessed=witnessed).run())
    return results
