"""Carries out what the kernel asks: intent written and committed, act, outcome written (kernel decision 8).

The driver owns I/O and time; it decides nothing. Whatever a control, a condition or the ledger does (raise,
hang, lie), the workload goes on: the kernel hears an outcome, and the guard's own faults are findings.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import cast

from premortem.core.action import Control, Outcome, Setting
from premortem.core.command import Command
from premortem.core.engine import Engine
from premortem.core.evidence import Plain, Record
from premortem.core.workload import Workload
from premortem.ledger.ledger import Ledger, Receipt

Listener = Callable[[Record], None]


class Driver:
    """One engine on one workload with one ledger."""

    def __init__(
        self,
        engine: Engine,
        workload: Workload,
        ledger: Ledger,
        *,
        run: str,
        patience_s: float = 30.0,
        mark_good: Callable[[int], None] | None = None,
    ) -> None:
        self.engine = engine
        self.workload = workload
        self.ledger = ledger
        self.run = run
        self._patience_s = patience_s
        self._mark_good = mark_good
        self._listeners: list[Listener] = []
        self._hanging: dict[str, threading.Thread] = {}
        self._faults_noted: set[str] = set()
        self._started = time.monotonic()

    def listen(self, listener: Listener) -> None:
        """Be told of every record, after it was written; a listener that raises is noted once and dropped."""
        self._listeners.append(listener)

    @property
    def seconds(self) -> float:
        """Monotonic seconds since the driver was made: the kernel's clock."""
        return time.monotonic() - self._started

    def tick(self, values: list[float | None], tick: int) -> None:
        """Give the kernel one row of observations and carry out all that follows from it."""
        self.carry_out(self.engine.observe(values, tick, self.seconds))

    def carry_out(self, commands: list[Command]) -> None:
        """Work off commands and those that their outcomes ask for."""
        waiting = list(commands)
        while waiting:
            command = waiting.pop(0)
            if command.awaits_outcome:
                waiting = self.engine.outcome(command.number, self._do(command)) + waiting
            elif command.verb == "mark_good" and self._mark_good is not None:
                self._try_mark(command)
            else:
                self._write(command.record)
        if commands:
            self.save_memory()

    def save_memory(self) -> None:
        """Keep what must never be rolled back: incidents, tries, latches (law 11)."""
        receipt = self.ledger.save_state(self.run, cast("Plain", self.engine.state()))
        if not receipt.committed:
            self._guard_fault(f"the guard's memory was not kept: {self.ledger.health().fault}")

    def note(self, record: Record) -> None:
        """Write a record of the driver's own."""
        self._write(record)

    # --- commands ----------------------------------------------------------------------------

    def _do(self, command: Command) -> Outcome:
        if command.verb == "keep":
            return self._keep(command.record)
        if command.verb == "read":
            return self._call(command, lambda: self._control(command).read())
        intent = self._intend(command.record)
        outcome = self._call(command, lambda: self._act(command))
        if intent is not None:
            done = Record(
                "outcome", command.record.entry, command.record.incident, command.record.tick, self.seconds,
                {"verb": command.verb, "ok": outcome.ok, "detail": outcome.detail},
            )  # fmt: skip
            self.ledger.settle(intent, done)
        return outcome

    def _act(self, command: Command) -> Setting | None:
        if command.verb == "ask":
            answer = self.workload.conditions[command.target.condition]()
            if answer is None:
                raise _Unknown(f"the condition {command.target.condition!r} could not be established")
            return float(answer)
        control = self._control(command)
        assert command.target.owner is not None
        if command.verb == "undo":
            control.undo(command.target.owner)
        elif command.target.override is not None:
            control.turn(command.target.owner, command.target.override)
        return None

    def _control(self, command: Command) -> Control:
        return self.workload.controls[command.target.control]

    def _call(self, command: Command, act: Callable[[], Setting | None]) -> Outcome:
        """Run it beside the loop with a limit on patience: what hangs is unknown, and its control is left alone."""
        busy = self._hanging.get(command.target.control)
        if busy is not None and busy.is_alive():
            return Outcome(None, None, f"an earlier command on {command.target.control!r} still hangs")
        result: list[Outcome] = []

        def body() -> None:
            try:
                value = act()
                ok = value != 0.0 if command.verb == "ask" else True
                result.append(Outcome(ok, value))
            except _Unknown as error:
                result.append(Outcome(None, None, str(error)))
            except Exception as error:
                result.append(Outcome(False, None, f"{type(error).__name__}: {error}"))

        thread = threading.Thread(target=body, name=f"premortem-{command.verb}", daemon=True)
        thread.start()
        thread.join(self._patience_s)
        if not result:
            self._hanging[command.target.control] = thread
            return Outcome(None, None, f"no answer within {self._patience_s:g} s")
        return result[0]

    def _try_mark(self, command: Command) -> None:
        assert self._mark_good is not None
        try:
            self._mark_good(command.tick)
        except Exception as error:
            self._guard_fault(f"the checkpoint of tick {command.tick} was not marked good: {error}")
        else:
            self._write(command.record)

    # --- evidence ----------------------------------------------------------------------------

    def _intend(self, record: Record) -> Receipt | None:
        try:
            receipt = self.ledger.intend(record)
        except Exception as error:
            self._guard_fault(f"an intent was not written: {type(error).__name__}: {error}")
            return None
        self._tell(record)
        return receipt

    def _keep(self, record: Record) -> Outcome:
        """A verdict stands only when its record is committed and found again, hash and all."""
        try:
            receipt = self.ledger.append(record)
            kept = receipt.committed and self.ledger.contains(receipt)
        except Exception as error:
            return Outcome(False, None, f"{type(error).__name__}: {error}")
        if kept:
            self._tell(record)
        return Outcome(kept, None, "" if kept else f"the ledger did not commit it: {self.ledger.health().fault}")

    def _write(self, record: Record) -> None:
        try:
            receipt = self.ledger.append(record)
        except Exception as error:
            self._guard_fault(f"a record was not written: {type(error).__name__}: {error}")
        else:
            if not receipt.committed:
                self._guard_fault(f"the ledger spools: {self.ledger.health().fault}")
        self._tell(record)

    def _tell(self, record: Record) -> None:
        for listener in list(self._listeners):
            try:
                listener(record)
            except Exception as error:
                self._listeners.remove(listener)
                self._guard_fault(f"a listener failed and was dropped: {type(error).__name__}: {error}")

    def _guard_fault(self, what: str) -> None:
        """Told once: a guard that fails must not fill the evidence with its failures."""
        if what in self._faults_noted:
            return
        self._faults_noted.add(what)
        for command in self.engine.guard_fault(what):
            self._write(command.record)


class _Unknown(Exception):  # noqa: N818 - carries "could not be established" to the outcome
    pass
