"""Where a watch lives: its folder, held by one process at a time, and what it remembers there (law 11)."""

from __future__ import annotations

import fcntl
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from premortem.core.detector import Level
from premortem.core.errors import ConfigError, PremortemError, StageError
from premortem.core.evidence import Plain
from premortem.core.memory import go_on_with_window, window_in_flight
from premortem.run.driver import Driver
from premortem.run.evidence import open_requests

_KEEP_EVERY_S = 60.0
_ASK_EVERY_S, _ASK_SELDOM_S = 5.0, 30.0
_MOST_CONTENTS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """Where a watch keeps its evidence, and how it is run.

    Attributes:
        folder: holds ``ledger.db``; the same folder and name resume the same guard.
        name: the run's name in the ledger; the workload's kind where it is empty.
        probation: healthy ticks until what is seen counts as the healthy baseline.
        patience_s: seconds that a control, a condition or a write may take before it counts as unknown.
        most_waiting: rows that may wait for the guard's thread; more are left out, and that is reported.
        say: told every record in words; where it is left out the logger ``premortem`` tells the few that matter.

    Raises:
        ConfigError: a number out of range.
    """

    folder: Path
    name: str = ""
    probation: int = 30
    patience_s: float = 30.0
    most_waiting: int = 256
    say: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        for name, least in (("probation", 1), ("patience_s", 0.001), ("most_waiting", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value >= least:
                raise ConfigError(f"guard.watching: {name}: found {value!r}, expected a number of at least {least}")


class Hold:
    """The folder, held: two watches of one name would overwrite each other's memory.

    Raises:
        ConfigError: another watch of this name holds it, of this process or another.
        StageError: the folder cannot be made or written.
    """

    def __init__(self, folder: Path, name: str) -> None:
        lock = folder / f".{name.replace('/', '-')}.lock"
        self._descriptor = -1
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise ConfigError(
                f"{folder}: another watch named {name!r} is using it, expected one at a time; end that one, or give "
                "another name"
            ) from None
        except OSError as error:
            self.release()
            raise StageError(f"{folder}: cannot be used as a watch's home: {error.strerror}") from error

    def release(self) -> None:
        """Give it back; again changes nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Memory:
    """Ticks, contents that were assessed and detectors' windows, beside the kernel's own memory.

    A watch has no bundle that these could go with, so they lie in the ledger; at most a minute of windows is lost.
    The kernel's seconds go on while no process is here: what a person was given two days for is due after two days,
    also where each assessment is a process of its own.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._key = f"{driver.run}#watch"
        self._contents: OrderedDict[str, int] = OrderedDict()
        self._kept_at = time.monotonic()
        self._epoch = time.time()
        """Wall time at which the kernel's clock stood at 0."""
        self.ticks = 0

    def observed(self) -> None:
        """One more row was taken."""
        self.ticks += 1
        self.keep_if_due()

    def is_new(self, content: str) -> bool:
        """Whether this content was not assessed before; it counts as assessed from now on."""
        if content in self._contents:
            return False
        self._contents[content] = self.ticks + 1
        while len(self._contents) > _MOST_CONTENTS:
            self._contents.popitem(last=False)
        return True

    def recall(self) -> bool:
        """Go on where the last process ended; whether there was one. What cannot be read is reported, and forgotten."""
        driver = self._driver
        kernel: Plain = None
        try:
            kernel, own = driver.ledger.load_state(driver.run), driver.ledger.load_state(self._key)
            if isinstance(own, dict):
                self.ticks = int(cast("int", own["ticks"]))
                self._contents = OrderedDict(cast("dict[str, int]", own["contents"]))
                self._epoch = float(cast("float", own["epoch"]))
                self._recall_detectors(own)
            if isinstance(kernel, dict):
                tick, seconds = cast("list[float]", kernel["now"])
                driver.resume({**kernel, "now": [int(tick), max(seconds, time.time() - self._epoch)]})
                window = own.get("window") if isinstance(own, dict) else None
                if isinstance(window, dict):
                    go_on_with_window(driver.engine, window)
                self.ticks = max(self.ticks, driver.engine.desk.tick)
        except (PremortemError, KeyError, TypeError, ValueError) as error:
            what = f"the guard's memory could not be read, its incidents are forgotten: {type(error).__name__}: {error}"
            driver.carry_out(driver.engine.guard_fault(what))
        return isinstance(kernel, dict)

    def keep(self) -> None:
        """Write all of it now."""
        driver, self._kept_at = self._driver, time.monotonic()
        driver.save_memory()
        observer = driver.engine.observer
        levels = [None if level is None else int(level) for level in observer.levels]
        state = {
            "ticks": self.ticks,
            "contents": {**self._contents},
            "epoch": self._epoch,
            "detectors": observer.state(),
            "levels": dict(zip(observer.names, levels, strict=True)),
            # what is assessed by its content lives on between two processes, and so does what was counted of it
            "window": window_in_flight(driver.engine) if self._contents else None,
        }
        driver.save(self._key, cast("Plain", state), "what the detectors had seen")

    def _recall_detectors(self, own: dict[str, Plain]) -> None:
        """Windows, and what was last said of each: a finding is a change, and a restart changes nothing."""
        observer = self._driver.engine.observer
        fresh = observer.load(cast("dict[str, object]", own["detectors"]))
        levels = cast("dict[str, int | None]", own["levels"])
        for i, name in enumerate(observer.names):
            level = None if name in fresh else levels.get(name)
            observer.levels[i] = None if level is None else Level(level)

    def keep_if_due(self) -> None:
        """Write it once a minute."""
        if time.monotonic() - self._kept_at >= _KEEP_EVERY_S:
            self.keep()


class Requests:
    """What people asked of the guard in the ledger: to release a latch, to accept a new normal (kernel decision 4)."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._asked_at = time.monotonic()

    def honour_if_due(self) -> None:
        """Every few seconds while something waits for a person, otherwise now and then."""
        pause = _ASK_EVERY_S if self._driver.engine.latched else _ASK_SELDOM_S
        if time.monotonic() - self._asked_at >= pause:
            self.honour()

    def honour(self) -> None:
        """Do it now; a ledger that cannot be read is a fault of the guard, reported."""
        driver, self._asked_at = self._driver, time.monotonic()
        try:
            rows = open_requests(driver.ledger, driver.run)
        except PremortemError as error:
            driver.carry_out(driver.engine.guard_fault(f"what people asked for could not be read: {error}"))
            return
        for request in (row.record for row in rows):
            who = str(request.data.get("who", "unknown"))
            if request.event == "acknowledged":
                driver.carry_out(driver.engine.acknowledge(request.entry, who))
            else:
                driver.carry_out(driver.engine.rebaseline(who))
