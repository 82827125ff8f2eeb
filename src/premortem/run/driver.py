"""Carries out what the kernel asks: intent written and committed, act, outcome written (kernel decision 8).

The driver owns I/O and time; it decides nothing. Whatever a control, a condition, the ledger or the kernel itself
does (raise, hang, lie), the workload goes on: the kernel hears an outcome, and the guard's own faults are findings.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import cast

from premortem.core.action import Control, Outcome, Setting
from premortem.core.command import Command
from premortem.core.engine import Engine
from premortem.core.evidence import Plain, Record
from premortem.core.workload import Workload
from premortem.ledger.ledger import Filters, Ledger, Receipt
from premortem.machine.relief import give_back
from premortem.run.patience import Answer, Patience

Listener = Callable[[Record], None]
Follower = Callable[[list[float | None], int], None]
Clock = Callable[[], float]

_REMEMBERED = frozenset({"turn", "undo", "ask", "keep"})
"""Before these the kernel's memory is kept, so that a crash in the middle finds them (law 11)."""


class Driver:
    """One engine on one workload with one ledger.

    Args:
        engine, workload, ledger: what is driven, on what, with which evidence.
        run: id under which the guard's memory is kept.
        patience_s: seconds that a command or a write may take before it counts as unknown.
        mark_good: called with the tick of a checkpoint that earned its mark; ``False``: it is not
            worth a row of evidence, and only listeners hear of it.
        clock: monotonic seconds.
    """

    def __init__(  # noqa: PLR0913 - all keyword-only but the three parts
        self,
        engine: Engine,
        workload: Workload,
        ledger: Ledger,
        *,
        run: str,
        patience_s: float = 30.0,
        mark_good: Callable[[int], bool | None] | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.engine = engine
        self.workload = workload
        self.ledger = ledger
        self.run = run
        self._mark_good = mark_good
        self._listeners: list[Listener] = []
        self._followers: list[Follower] = []
        self._patience = Patience(patience_s)
        self._faults_noted: set[str] = set()
        self._clock = clock
        self._started = clock()

    def listen(self, listener: Listener) -> None:
        """Be told of every record, after it was written; a listener that raises is noted once and dropped."""
        self._listeners.append(listener)

    def follow(self, follower: Follower) -> None:
        """Be told of every row of observations and its tick; one that raises is noted once and dropped."""
        self._followers.append(follower)

    @property
    def seconds(self) -> float:
        """Monotonic seconds since the driver was made: the kernel's clock."""
        return self._clock() - self._started

    @property
    def open(self) -> list[Plain]:
        """Incidents without a verdict, in words, for the record that says that a run ended."""
        return [f"{i.entry} #{i.number}: still open ({i.phase.value})" for i in self.engine.open_incidents]

    def tick(self, values: list[float | None], tick: int) -> None:
        """Give the kernel one row of observations and carry out all that follows from it."""
        try:
            commands = self.engine.observe(values, tick, self.seconds)
        except Exception as error:  # law 8: what guards never breaks what it guards
            self._guard_fault(f"the kernel failed: {type(error).__name__}: {error}")
            return
        if commands:
            self.carry_out(commands)
        for follower in list(self._followers):
            try:
                follower(values, tick)
            except Exception as error:
                self._followers.remove(follower)
                self._guard_fault(f"a follower failed and was dropped: {type(error).__name__}: {error}")

    def carry_out(self, commands: list[Command]) -> None:
        """Work off commands and those that their outcomes ask for."""
        waiting, is_worth_keeping = list(commands), False
        while waiting:
            command = waiting.pop(0)
            if command.verb == "mark_good" and self._mark_good is not None:
                is_worth_keeping |= self._try_mark(command, self._mark_good)
                continue
            is_worth_keeping = True
            if command.awaits_outcome:
                if command.verb in _REMEMBERED:
                    self.save_memory()
                waiting = self._tell_kernel(command, self._do(command)) + waiting
            else:
                self._write(command.record)
        if is_worth_keeping:
            self.save_memory()

    def resume(self, memory: Mapping[str, object]) -> None:
        """Go on with a guard's memory: settle by read-back what a crash cut short, then put settings back (law 11)."""
        self._settle_by_read_back()
        self.carry_out(self.engine.load(dict(memory)))

    def save_memory(self) -> None:
        """Keep what must never be rolled back: incidents, tries, latches (law 11)."""
        self.save(self.run, cast("Plain", self.engine.state()), "the guard's memory")

    def save(self, key: str, state: Plain, what: str) -> None:
        """Keep a state in the ledger, with patience; one that was not kept is a fault of the guard, told once."""
        receipt = self._ledger_call(f"{what} was not kept", lambda: self.ledger.save_state(key, state))
        if receipt is not None and not receipt.committed:
            self._guard_fault(f"{what} was not kept: {self.ledger.health().fault}")

    def note(self, record: Record) -> None:
        """Write a record of the driver's own."""
        self._write(record)

    # --- commands ----------------------------------------------------------------------------

    def _tell_kernel(self, command: Command, outcome: Outcome) -> list[Command]:
        try:
            return self.engine.outcome(command.number, outcome)
        except Exception as error:  # law 8
            self._guard_fault(f"the kernel failed: {type(error).__name__}: {error}")
            return []

    def _do(self, command: Command) -> Outcome:
        if command.verb == "keep":
            return self._keep(command.record)
        if command.verb == "read":
            return self._call(command, lambda: self._control(command).read())
        intent = self._intend(command.record)
        outcome = self._call(command, lambda: self._act(command))
        if intent is not None:
            self._settle(intent, command.record, outcome)
        return outcome

    def _settle(self, intent: Receipt, asked: Record, outcome: Outcome) -> None:
        done = Record(
            "outcome", asked.entry, asked.incident, asked.tick, self.seconds,
            {"verb": asked.data.get("verb"), "ok": outcome.ok, "value": outcome.value, "detail": outcome.detail},
        )  # fmt: skip
        self._ledger_call("an outcome was not written", lambda: self.ledger.settle(intent, done))

    def _settle_by_read_back(self) -> None:
        """An intent without an outcome is never repeated blindly: what is there now is its outcome."""
        rows = self._patience.run("ledger", lambda: self.ledger.unsettled(self.run))
        if rows.value is None:
            self._guard_fault(f"unsettled intents could not be read: {rows.why}")
            return
        for row in rows.value:
            name = str(row.record.data.get("control", ""))
            control = self.workload.controls.get(name)
            found = None if control is None else self._patience.run(name, control.read).value
            outcome = Outcome(None, found, "settled by read-back after a restart")
            self._settle(row.receipt, row.record, outcome)

    def _act(self, command: Command) -> Setting | bool | None:
        if command.verb == "ask":
            return self.workload.conditions[command.target.condition]()
        control = self._control(command)
        assert command.target.owner is not None
        if command.verb == "undo":
            control.undo(command.target.owner)
        elif command.target.override is not None:
            control.turn(command.target.owner, command.target.override)
        return None

    def _control(self, command: Command) -> Control:
        return self.workload.controls[command.target.control]

    def _call(self, command: Command, act: Callable[[], Setting | bool | None]) -> Outcome:
        """Run it beside the loop with a limit on patience: what hangs is unknown, and its control is left alone."""
        target = command.target
        answer = self._patience.run(target.control or f"condition {target.condition}", act)
        if not answer.came:
            return Outcome(None, None, answer.why)
        if answer.error is not None:
            return Outcome(False, None, answer.why)
        if command.verb == "ask":
            held = None if answer.value is None else bool(answer.value)
            return Outcome(held, None, "" if held is not None else f"{target.condition!r} is unknown")
        return Outcome(True, answer.value)

    def _try_mark(self, command: Command, mark_good: Callable[[int], bool | None]) -> bool:
        """Whether it was worth a row of evidence."""
        try:
            is_told = mark_good(command.tick) is not False
        except Exception as error:
            self._guard_fault(f"the checkpoint of tick {command.tick} was not marked good: {error}")
            return True
        if is_told:
            self._write(command.record)
        else:
            self._tell(command.record)
        return is_told

    # --- evidence ----------------------------------------------------------------------------

    def _ledger_call(self, what: str, write: Callable[[], Receipt]) -> Receipt | None:
        """Write beside the loop too: a hanging disk must not hold up what is guarded. ``None``: not written."""
        answer: Answer[Receipt] = self._patience.run("ledger", write)
        if answer.value is None:
            self._guard_fault(f"{what}: {answer.why}")
        return answer.value

    def _intend(self, record: Record) -> Receipt | None:
        receipt = self._ledger_call("an intent was not written", lambda: self.ledger.intend(record))
        self._say_if_spooled(receipt)
        self._tell(record)
        return receipt

    def _keep(self, record: Record) -> Outcome:
        """A verdict stands only when its record is committed and found again, hash and all."""

        def keep() -> Receipt:
            receipt = self.ledger.append(record)
            try:
                found = self._is_found(receipt, record)
            except MemoryError:
                give_back()  # reading it back needs a little room; what is written is not written again
                found = self._is_found(receipt, record)
            return receipt if found else Receipt(0, "", committed=False)

        answer = self._patience.run("ledger", keep)
        if answer.value is None:
            return Outcome(None if not answer.came else False, None, answer.why)
        if not answer.value.committed:
            return Outcome(False, None, f"the ledger did not commit it: {self.ledger.health().fault}")
        self._tell(record)
        return Outcome(True)

    def _is_found(self, receipt: Receipt, record: Record) -> bool:
        """Whether the row of the receipt stands on disk, hash and all, and is this very record."""
        if not receipt.committed or not self.ledger.contains(receipt):
            return False
        row = next(iter(self.ledger.records(Filters(after=receipt.seq - 1))), None)
        return row is not None and row.hash == receipt.hash and _same(row.record, record)

    def _write(self, record: Record) -> None:
        self._say_if_spooled(self._ledger_call("a record was not written", lambda: self.ledger.append(record)))
        self._tell(record)

    def _say_if_spooled(self, receipt: Receipt | None) -> None:
        if receipt is not None and not receipt.committed:
            self._guard_fault(f"the ledger spools: {self.ledger.health().fault}")

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
            if command.awaits_outcome:
                continue
            self._write(command.record)


def _same(one: Record, other: Record) -> bool:
    return (one.event, one.entry, one.incident, one.tick) == (other.event, other.entry, other.incident, other.tick)
