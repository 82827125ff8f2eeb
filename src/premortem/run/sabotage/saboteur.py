"""The broken parts themselves: controls, conditions, the removal of the fault, and a ledger."""

from __future__ import annotations

import math
import subprocess
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import cast

from premortem.core.action import Override, OverrideStack, Owner, Setting
from premortem.core.evidence import Plain, Record
from premortem.ledger.ledger import Receipt
from premortem.ledger.sqlite import SqliteLedger
from premortem.run.sabotage.cells import Cell, Mutant
from premortem.run.sabotage.plant import Lever, Plant

SLIPS_AFTER = 20
"""Ticks after which a relapsing part gives way: inside the relapse watch."""
_COMES_BACK_AFTER = 6


class Timetable:
    """What happens later, by tick of the plant; and hanging calls, let go at the end of the cell."""

    def __init__(self, plant: Plant) -> None:
        self.plant = plant
        self._due: list[tuple[int, Callable[[], None]]] = []
        self._gate = threading.Event()
        self._hanging: list[threading.Event] = []

    def later(self, after: int, act: Callable[[], None]) -> None:
        """Do it so many ticks from now."""
        self._due.append((self.plant.tick + after, act))

    def tick(self) -> None:
        """Do what is due."""
        due = [act for at, act in self._due if at <= self.plant.tick]
        self._due = [(at, act) for at, act in self._due if at > self.plant.tick]
        for act in due:
            act()

    def hang(self, late: Callable[[], None]) -> None:
        """Never come back in time; do it late, when let go."""
        through = threading.Event()
        self._hanging.append(through)
        self.later(3 * SLIPS_AFTER, self.let_go)
        self._gate.wait()
        try:
            late()
        finally:
            through.set()

    def let_go(self) -> None:
        """Let every hanging call go and wait until it is through."""
        self._gate.set()
        for through in self._hanging:
            through.wait()


def exit_1() -> bool:
    """A real process that fails; returns whether it succeeded."""
    return subprocess.run(["false"], check=False).returncode == 0


def nothing() -> None:
    """No effect at all."""


class BrokenControl:
    """A control of the plant whose action, undo or read-back is sabotaged for one rung.

    ``claimed`` is what an honest control would show: a liar shows it, whatever is truly in force.
    """

    def __init__(self, lever: Lever, cell: Cell, timetable: Timetable, *, is_of_rung: bool) -> None:
        self._lever = lever
        self._cell = cell
        self._time = timetable
        self._claimed = OverrideStack(lever.stack.base)
        self._read = cell.of("read-back") if is_of_rung else None
        self._lies = self._read == "false success"
        self._num_reads = 0

    def turn(self, owner: Owner, override: Override) -> None:
        """Put it in force, or fail to in the cell's way."""
        self._claimed.put(owner, override)

        def truly() -> None:
            self._lever.turn(owner, override)
            self._time.plant.carried_out(owner.rung)

        def slips() -> None:
            self._lever.undo(owner)
            self._time.plant.done.discard(owner.rung)

        mutant = self._cell.of("action") if owner.rung == self._cell.rung else None
        self._break(mutant, truly, slips, SLIPS_AFTER)
        if mutant == "left behind":
            raise RuntimeError("half way through: it took effect, and then it broke")

    def undo(self, owner: Owner) -> None:
        """Take it away, or fail to in the cell's way."""
        before = self._lever.stack.override(owner)
        self._claimed.remove(owner)

        def comes_back() -> None:
            if before is not None:
                self._lever.turn(owner, before)

        mutant = self._cell.of("undo") if owner.rung == self._cell.rung else None
        self._break(mutant, lambda: self._lever.undo(owner), comes_back, _COMES_BACK_AFTER)
        if mutant == "left behind":
            self._time.plant.fault_on = True

    def read(self) -> Setting:
        """What is in force, or what the cell's way shows."""
        self._num_reads += 1
        if self._lies:
            return self._claimed.effective
        true = self._lever.read()
        if self._read == "hang":
            self._time.hang(nothing)
        elif self._read == "raise":
            raise OSError("the setting cannot be read")
        elif self._read == "exit 1":
            return math.nan if not exit_1() else true
        elif self._read == "no-op" or (self._read == "relapse" and self._num_reads > 1):
            return self._lever.stack.base
        elif self._read == "left behind":
            for owner in self._lever.stack.owners:
                self._time.later(2, lambda owner=owner: self._lever.undo(owner))  # type: ignore[misc]
        return true

    def _break(
        self, mutant: Mutant | None, truly: Callable[[], None], gives_way: Callable[[], None], after: int
    ) -> None:  # fmt: skip
        if mutant == "hang":
            self._time.hang(truly)
        elif mutant == "raise":
            raise OSError("it refused")
        elif mutant == "exit 1":
            exit_1()
        elif mutant == "false success":
            self._lies = True
        elif mutant != "no-op":
            truly()
            if mutant == "relapse":
                self._time.later(after, gives_way)


def broken_condition(mutant: Mutant, timetable: Timetable) -> Callable[[], bool | None]:
    """A condition that is established in a sabotaged way; the honest one is that the plant is not ill."""
    plant = timetable.plant

    def ask() -> bool | None:
        if mutant == "no-op":
            return None
        if mutant == "exit 1":
            return exit_1()
        if mutant == "raise":
            raise OSError("it could not be asked")
        if mutant == "hang":
            timetable.hang(nothing)
        if mutant == "relapse":
            plant.cures = frozenset()  # true when asked; then the fault comes back, and nothing helps any more
        if mutant == "left behind":
            plant.severity = 1.0
        return True if mutant == "false success" else not plant.is_ill

    return ask


def remove_fault(mutant: Mutant | None, timetable: Timetable) -> None:
    """Take the fault away once recovery is judged, or fail to; every failure leaves it on."""
    plant = timetable.plant
    if mutant == "hang":
        threading.Thread(target=lambda: timetable.hang(nothing), daemon=True).start()
    elif mutant == "raise":
        try:
            raise OSError("the fault cannot be removed")
        except OSError:
            return
    elif mutant == "exit 1":
        exit_1()
    elif mutant == "left behind":
        plant.residue = 0.8
    elif mutant in (None, "relapse"):
        plant.fault_on = False
        if mutant == "relapse":
            timetable.later(_COMES_BACK_AFTER, lambda: setattr(plant, "fault_on", True))


class BrokenLedger(SqliteLedger):
    """A real ledger whose writing breaks once ``armed``: in the cell's way."""

    mutant: Mutant | None = None
    timetable: Timetable | None = None
    _good: Receipt | None = None

    def append(self, record: Record, *, state: Plain = None) -> Receipt:
        """Write, or fail to."""
        mutant = self.mutant
        if mutant is None or mutant in ("relapse", "left behind"):
            self._good = receipt = super().append(record, state=state)
            if mutant == "left behind" and record.event in ("recovered", "closed", "held"):
                self._damage(receipt)
            elif mutant == "relapse":
                cast("Timetable", self.timetable).later(1, lambda: self._damage(receipt))
            return receipt
        if mutant == "raise":
            raise OSError("the ledger cannot be written")
        if mutant == "hang":
            cast("Timetable", self.timetable).hang(nothing)
        if mutant == "false success":  # the receipt of another row, which really stands there
            self._good = self._good or super().append(record, state=state)
            return self._good
        return Receipt(10**6, "0" * 64) if mutant == "no-op" else Receipt(0, "", committed=exit_1())

    def _damage(self, receipt: Receipt) -> None:
        """Someone edits the stored row."""
        import sqlite3

        with sqlite3.connect(self.path) as db:
            for (trigger,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
                db.execute(f'DROP TRIGGER "{trigger}"')
            db.execute("UPDATE chain SET body = 'gone' WHERE seq = ?", (receipt.seq,))
        db.close()


def with_condition(cell: Cell, name: str) -> Cell:
    """The cell with one more condition on its rung, where the rung has none of its own."""
    rungs = tuple(
        replace(r, condition=r.condition or name) if r.name == cell.rung else r for r in cell.subject.rungs
    )  # fmt: skip
    return replace(cell, subject=replace(cell.subject, rungs=rungs))
