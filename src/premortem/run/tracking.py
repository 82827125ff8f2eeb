"""Watches an experiment tracker beside a training run, and logs the run's signals to it.

The watching has a thread, an engine and a name in the ledger of its own: what it turns may take seconds, and no step
waits for it. It ends with the training run.
"""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Self, cast

from premortem.core.engine import Engine
from premortem.core.errors import PremortemError
from premortem.core.evidence import Plain, Record
from premortem.ledger.ledger import Ledger
from premortem.run.bind import bind
from premortem.run.calls import Calls
from premortem.run.driver import Driver
from premortem.run.telling import tell
from premortem.stages.tracking import Tracker
from premortem.stages.tracking.workload import TrackerWorkload

if TYPE_CHECKING:
    from premortem.run.guard import Guard
    from premortem.run.training import GuardedTraining

_PATIENCE_S = 15.0
_PREFIX = "premortem/"


class TrackerWatch:
    """One engine on one tracker; ``start`` and ``stop`` its thread, or call ``look`` by hand.

    Raises:
        ConfigError: for a register that does not bind to a tracker.
    """

    def __init__(self, guard: Guard, tracker: Tracker, ledger: Ledger, *, every_s: float = 1.0) -> None:
        self._every_s = every_s
        self._ledger = ledger
        self._num_looks = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="premortem-tracker", daemon=True)
        self.workload = TrackerWorkload(tracker)
        plan = bind(guard.active, self.workload, guard.file.register)
        self.is_watched = bool(plan.entries)
        self.driver = Driver(
            Engine(plan), self.workload, ledger, run=f"tracker {tracker.run.name}", patience_s=_PATIENCE_S
        )
        self.driver.listen(Calls(guard.file, self.driver.note).hear)
        self.driver.listen(tell)

    def start(self) -> Self:
        """Go on with what an earlier process of this run remembered, and look every second."""
        if self.is_watched:
            self._recall()
            self._note("began")
            self._thread.start()
        return self

    def stop(self) -> None:
        """Look no more, and keep what is remembered."""
        self._stop.set()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(_PATIENCE_S)
        if self.is_watched:
            self.driver.save_memory()
            self._note("ended")
        self._ledger.close()

    def look(self) -> None:
        """One observation and what follows from it. A folder that cannot be read is silence, and says so."""
        self._num_looks += 1
        try:
            row = self.workload.row()
        except (OSError, PremortemError):
            row = [None] * len(self.workload.signals)
        self.driver.tick(row, self._num_looks)

    def _watch(self) -> None:
        while not self._stop.wait(self._every_s):
            self.look()

    def _recall(self) -> None:
        try:
            memory = self._ledger.load_state(self.driver.run)
            if isinstance(memory, dict):
                self.driver.resume(cast("dict[str, object]", memory))
        except (PremortemError, KeyError, TypeError, ValueError) as error:
            what = f"the memory about the tracker could not be read: {type(error).__name__}: {error}"
            self.driver.carry_out(self.driver.engine.guard_fault(what))

    def _note(self, what: str) -> None:
        data: dict[str, Plain] = {"what": what, "where": "", "why": ""}
        if what == "ended":
            data |= {"steps": 0, "ticks": self._num_looks}
        self.driver.note(Record("run", "", None, self._num_looks, self.driver.seconds, data))


def attach(guard: Guard, run: GuardedTraining, tracker: Tracker) -> None:
    """Log each step's signals to the tracker, and watch it while the run is open."""
    place = getattr(run.ledger, "path", None) or tracker.folder.path / "ledger.db"
    watch = TrackerWatch(guard, tracker, Ledger.open(Path(place), run=f"{run.driver.run} (tracker)"))

    def follow(values: list[float | None], tick: int) -> None:
        seen = {_PREFIX + n: v for n, v in zip(run.workload.names, values, strict=True) if v is not None}
        tracker.log(seen, step=run.step_number)

    def hear(record: Record) -> None:
        if record.event != "run":
            return
        if record.data.get("what") == "ended":
            with contextlib.suppress(PremortemError):
                watch.stop()
        elif watch.is_watched:
            watch.start()
        else:
            run.report_gap(f"the register {guard.file.register} watches no tracker: name train/tracker-offline in it")

    run.driver.follow(follow)
    run.driver.listen(hear)
