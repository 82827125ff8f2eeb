"""Guards any workload of one's own: a row of signals at each tick, from a loop, from asyncio, or one shot at a time.

The same engine, driver and ledger as a guarded training run. What a tick is, the caller says: a window of requests, a
generation, a batch, an assessment of a content.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from premortem.core.detector import Level
from premortem.core.engine import Engine
from premortem.core.errors import ConfigError
from premortem.core.evidence import Event, Plain, Record
from premortem.core.workload import Workload
from premortem.ledger.ledger import Ledger
from premortem.run.bind import bind
from premortem.run.calls import Calls
from premortem.run.driver import Driver
from premortem.run.home import Hold, Home, Memory, Requests
from premortem.run.rows import Values, row_of
from premortem.run.telling import tell
from premortem.run.words import in_words

if TYPE_CHECKING:
    from premortem.run.guard import Guard


@dataclass(frozen=True, slots=True)
class Standing:
    """How a workload stands after a row; one object, so that any thread may read it without a lock.

    Attributes:
        levels: the last assessment of each watch, by ``entry/risk/watch``; ``None`` is unknown.
        open: entries whose incident climbs, is watched for relapse, or waits.
        handed_over: entries that wait for a person: latched until GREEN for a relapse watch, or acknowledged.
    """

    levels: Mapping[str, Level | None]
    open: tuple[str, ...] = ()
    handed_over: tuple[str, ...] = ()

    @property
    def is_green(self) -> bool:
        """Whether every watch said GREEN or YELLOW of the last row; unknown is not (law 2)."""
        return all(level is not None and level <= Level.YELLOW for level in self.levels.values())

    @property
    def is_healthy(self) -> bool:
        """Whether it is green, nothing is open, and nothing waits for a person."""
        return self.is_green and not self.open and not self.handed_over


class Watch:
    """What :meth:`premortem.Guard.watching` gives; use it by ``with``, or by ``async with`` in an event loop.

    Three ways to hand a row over. All may be called from any thread; rows are taken one at a time, those of one caller
    in their order:

    - :meth:`tick` observes here and carries out here, ledger's commits and all: for a loop that can wait.
    - :meth:`post` returns at once, :meth:`observe` is awaited: the guard works in a thread of its own, so that an event
      loop never waits for a commit, a control or a hanging disk.
    - :meth:`assess` takes a content once: nothing recovers by reading the same content again (kernel decision 2).

    Controls and conditions are called in the guard's threads, never in the caller's: plain attributes may be set as
    they are, what belongs to an event loop is reached by ``asyncio.run_coroutine_threadsafe``.
    """

    def __init__(self, guard: Guard, workload: Workload, home: Home) -> None:
        self.workload = workload
        self._home = home
        self._slots = [signal.name for signal in workload.signals]
        self.engine = Engine(bind(guard.active, workload, guard.file.register, probation=home.probation))
        if not self.engine.plan.watches:
            raise ConfigError(
                f"{guard.file.register}: found no active entry that watches a workload of the kind {workload.kind!r}, "
                "expected one with a risk of that kind; name one, or mend the workload's 'kind'"
            )
        self.name = home.name or workload.kind
        self._lock = threading.RLock()
        self._hold: Hold | None = None
        self._own_ledger = guard.ledger is None or isinstance(guard.ledger, str | Path)
        self._place = home.folder / "ledger.db" if guard.ledger is None else guard.ledger
        self._file = guard.file
        self._worker: ThreadPoolExecutor | None = None
        self._waiting = self._left_out = 0
        self._counting = threading.Lock()
        self._is_open = False
        self._standing = self._stand()
        self._memory: Memory
        self._requests: Requests
        self.ledger: Ledger
        self.driver: Driver

    # --- life --------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        with self._lock:
            if hasattr(self, "driver"):
                raise ConfigError("guard.watching: entered twice, expected one 'with' a watch; make another one")
            self._hold = Hold(self._home.folder, self.name)
            try:
                self._open()
            except BaseException:
                self._let_go()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._counting:
            self._is_open = False
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.shutdown(wait=True)  # what was posted is still observed
        with self._lock:
            try:
                self._tell_left_out()
                self._memory.keep()
                why = "" if error is None else f"{type(error).__name__}: {error}"
                self._note("run", what="ended", steps=self.ticks, why=why, open=self.driver.open)
            finally:
                self._let_go()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.shield(asyncio.to_thread(self.__exit__, kind, error, trace))

    # --- rows --------------------------------------------------------------------------------

    def tick(self, values: Values) -> None:
        """Observe one row and carry out, here and now, all that follows from it.

        Raises:
            ConfigError: an unknown signal, a value that is no number, a watch that is not open.
        """
        row = self._row(values)
        with self._lock:
            self._observe(row)

    def post(self, values: Values) -> Future[None]:
        """Hand one row to the guard's thread and return at once; the future is done when all of it is carried out.

        Where more than ``most_waiting`` rows wait, this one is left out; that is reported as not watched (law 2).

        Raises:
            ConfigError: as :meth:`tick`.
        """
        row = self._row(values)
        with self._counting:
            self._require_open()
            if self._waiting >= self._home.most_waiting:
                self._left_out += 1
                done: Future[None] = Future()
                done.set_result(None)
                return done
            self._waiting += 1
            if self._worker is None:
                self._worker = ThreadPoolExecutor(1, thread_name_prefix="premortem-guard")
            future = self._worker.submit(self._posted, row)
        future.add_done_callback(self._taken)  # outside the lock: it may be done, and is called here then
        return future

    async def observe(self, values: Values) -> None:
        """:meth:`post`, awaited. A cancelled caller leaves the row to the guard; it is observed all the same."""
        await asyncio.shield(asyncio.wrap_future(self.post(values)))

    def assess(self, content: str, values: Values) -> bool:
        """Observe one row that was measured on a content, unless this very content was assessed before.

        Args:
            content: a hash of all that was measured, such as SHA-256 in hex.
            values: the row.

        Returns:
            Whether it counted. Contents are remembered over restarts, the newest 4096 of them.

        Raises:
            ConfigError: as :meth:`tick`; an empty content.
        """
        if not content:
            raise ConfigError("watch.assess: found an empty content, expected a hash of what was measured")
        row = self._row(values)
        with self._lock:
            if not self._memory.is_new(content):
                return False
            self._observe(row)
            self._memory.keep()
        return True

    # --- how it stands -----------------------------------------------------------------------

    @property
    def ticks(self) -> int:
        """Rows that were observed so far, over all restarts."""
        return self._memory.ticks

    @property
    def standing(self) -> Standing:
        """How the workload stood after the last row that was taken."""
        return self._standing

    def listen(self, listener: Callable[[Record], None]) -> None:
        """Be told of every record from now on, in the guard's thread."""
        self.driver.listen(listener)

    # --- inside ------------------------------------------------------------------------------

    def _row(self, values: Values) -> list[float | None]:
        self._require_open()
        return row_of(values, self._slots)

    def _require_open(self) -> None:
        if not self._is_open:
            raise ConfigError("watch: it is not open; write 'with guard.watching(...) as watch:' around the loop")

    def _posted(self, row: list[float | None]) -> None:
        with self._lock:
            self._observe(row)

    def _taken(self, future: Future[None]) -> None:
        with self._counting:
            self._waiting -= 1

    def _observe(self, row: list[float | None]) -> None:
        tick = self.ticks + 1
        seen = {n: v for n, v in zip(self._slots, row, strict=True) if v is not None}
        self.ledger.note_readings(tick, seen)
        self._tell_left_out()
        self._requests.honour_if_due()
        self.driver.tick(row, tick)
        self._memory.observed()
        self._standing = self._stand()

    def _tell_left_out(self) -> None:
        with self._counting:
            left, self._left_out = self._left_out, 0
        if left:
            self._note("unwatched", what=f"{left} rows were left out: the guard was still at work on earlier ones")

    def _stand(self) -> Standing:
        engine = self.engine
        levels = dict(zip(engine.observer.names, engine.observer.levels, strict=True))
        waiting = [i.entry for i in (engine.climbing, *engine.queue) if i is not None]
        return Standing(levels, tuple(dict.fromkeys(waiting)), tuple(engine.latched.state()))

    def _open(self) -> None:
        ledger = self._place
        self.ledger = Ledger.open(ledger, run=self.name) if isinstance(ledger, str | Path) else ledger
        self.driver = Driver(
            self.engine, self.workload, self.ledger, run=self.name, patience_s=self._home.patience_s
        )  # fmt: skip
        say = self._home.say
        self.driver.listen(tell if say is None else lambda record: _say(record, say))
        self.driver.listen(Calls(self._file, self.driver.note).hear)
        self._memory, self._requests = Memory(self.driver), Requests(self.driver)
        resumed = self._memory.recall()
        self._is_open = True
        self._note("run", what="resumed" if resumed else "began")
        for gap in self.engine.plan.gaps:
            self._note("unwatched", what=gap)
        self._requests.honour()
        self._standing = self._stand()

    def _note(self, event: Event, **data: Plain) -> None:
        self.driver.note(Record(event, "", None, self.ticks, self.driver.seconds, data))

    def _let_go(self) -> None:
        self._is_open = False
        if self._own_ledger and hasattr(self, "ledger"):
            self.ledger.close()
        if self._hold is not None:
            self._hold.release()
            self._hold = None


def _say(record: Record, say: Callable[[str], None]) -> None:
    words = in_words(record)
    if words:
        whose = f"{record.entry}: " if record.entry else ""
        say(f"tick {record.tick}: {whose}{words}")
