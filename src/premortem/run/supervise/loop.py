"""The supervisor: looks at the command, lets the kernel decide, carries it out, until the command is done.

The same engine, driver and ledger as a guarded training run. Nothing stays behind: not the command, not its group,
not an edit of the user's files.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from premortem.core.engine import Engine
from premortem.core.errors import ConfigError
from premortem.core.evidence import Plain, Record
from premortem.ledger.ledger import Ledger
from premortem.run.bind import bind, bind_risks
from premortem.run.calls import Calls
from premortem.run.driver import Driver
from premortem.run.guard import Guard
from premortem.run.home import Requests
from premortem.run.suggest import closest
from premortem.run.supervise.options import Options
from premortem.run.supervise.signals import handed_on
from premortem.run.supervise.summary import GAVE_UP, Summary, verdict_of
from premortem.stages.process.group import LimitedGroup, LimitNotPermitted
from premortem.stages.process.handing import Handing
from premortem.stages.process.progress import Progress
from premortem.stages.process.running import Running, Setup
from premortem.stages.process.sizes import in_words
from premortem.stages.process.starts import Ended, Starts
from premortem.stages.process.workload import GIB, ProcessWorkload

Say = Callable[[str], None]
_LAST_LOOKS = 2000
"""Looks at a command that has ended well, until what is open is judged; nothing new can come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """Where a supervisor stands: its evidence, its words for people, where the command's output goes."""

    ledger: Ledger
    place: Path
    say: Say
    register: str = "supervise"
    entries: tuple[str, ...] = ()
    stdout: int = 1
    stderr: int = 2


class Supervisor:
    """Guards one command.

    Raises:
        ConfigError: a command, limit, register or edit that cannot be used; nothing has run then.
    """

    def __init__(self, command: tuple[str, ...], options: Options, ground: Ground) -> None:
        if not command:
            raise ConfigError("found no command, expected one after `--`: premortem supervise -- python train.py")
        if not Path("/proc/self/stat").exists():
            raise ConfigError("supervise needs Linux's /proc, which is not here; run it on Linux")
        self.command, self.options, self.ground = command, options, ground
        self.run = run_name(command)
        self._guard = Guard(ground.register, entries=ground.entries, params=_params(options))
        self._check_register()
        self._check_params()
        self._progress = Progress(options.progress, options.progress_files)
        self._starts = Starts(most=options.restarts, same=options.same_crashes, backoff_s=options.backoff_s,
                              progress=self._progress)  # fmt: skip
        folder = ground.place.parent / f"supervise-{os.getpid()}"
        self._handing = Handing(os.environ, folder, options.hands)
        self._limit_by = ""
        self._tick = self._told = 0

    def go(self, watch: Callable[[Record], None] | None = None) -> Summary:
        """Run the command to its end; ``watch`` hears every record.

        Raises:
            ConfigError: the command cannot be started.
        """
        began = time.monotonic()
        with ExitStack() as stack:
            group = self._limited(stack)
            setup = Setup(
                command=self.command, grace_s=self.options.grace_s, limit=self.options.memory_limit, group=group,
                heartbeat_file=self.options.heartbeat_file, stdout=self.ground.stdout, stderr=self.ground.stderr,
            )  # fmt: skip
            running = Running(setup, self._starts, self._handing)
            stack.callback(running.close)
            stack.enter_context(handed_on(running.pass_on))
            refused = self._recall(running)
            if refused:
                self._keep(running, over=True)
                return self._summary("given up", refused, GAVE_UP, time.monotonic() - began)
            goes_on = self._starts.num > 0
            if not goes_on:
                running.start(running.levels)
            workload = ProcessWorkload(running, self.options.watch_disk)
            driver = self._driver(workload)
            if watch is not None:
                driver.listen(watch)
            if goes_on:
                self._resume(running, driver)
            why = self._watch(running, workload, driver)
            return self._sum_up(running, driver, why, time.monotonic() - began)

    # --- inside ------------------------------------------------------------------------------

    def _check_register(self) -> None:
        file = self._guard.file
        bound = (use for entry in self._guard.active for use in bind_risks(entry, file.register))
        if not any(use.risk.workload == ProcessWorkload.kind for use in bound):
            raise ConfigError(f"--register {file.register}: found no active entry that watches a command, expected one "
                              "such as those of the register 'supervise'")  # fmt: skip

    def _check_params(self) -> None:
        known = {use.risk for entry in self._guard.file.entries for use in entry.risks}
        for risk in self.options.params:
            if risk not in known:
                raise ConfigError(f"--config: $.params: found the unknown risk {risk!r}, expected one of "
                                  f"{', '.join(sorted(known))}{closest(risk, known)}")  # fmt: skip

    def _limited(self, stack: ExitStack) -> LimitedGroup | None:
        """A group of the command's own, where one is wanted and allowed."""
        limit, by = self.options.memory_limit, self.options.limit_by
        if limit is None:
            if by == "group":
                raise ConfigError("--limit-by group: found no --memory-limit to keep; give one, such as 600M")
            return None
        if by == "watching":
            self._limit_by = "watched only, as asked"
        else:
            try:
                group = stack.enter_context(LimitedGroup(limit))
            except LimitNotPermitted as error:
                if by == "group":
                    raise ConfigError(f"--limit-by group: {error}") from None
                self._limit_by = f"watched only: {error}"
            else:
                self._limit_by = f"kept by the kernel in a control group of its own (cgroup v{group.group.version})"
                self.ground.say(f"memory limit {in_words(limit)}, {self._limit_by}")
                return group
        self.ground.say(f"memory limit {in_words(limit)}, {self._limit_by}")
        return None

    def _driver(self, workload: ProcessWorkload) -> Driver:
        plan = bind(self._guard.active, workload, self._guard.file.register)
        patience = 2 * self.options.grace_s + 120.0  # a stop in good order and a backoff are no hang
        driver = Driver(Engine(plan), workload, self.ground.ledger, run=self.run, patience_s=patience)
        driver.listen(Calls(self._guard.file, driver.note).hear)
        self._note(driver, "began", command=" ".join(self.command), memory_limit=self.options.memory_limit,
                   limit_by=self._limit_by, restarts=self.options.restarts)  # fmt: skip
        for gap in plan.gaps:
            driver.note(Record("unwatched", "", None, 0, driver.seconds, {"what": gap}))
        return driver

    def _resume(self, running: Running, driver: Driver) -> None:
        """The open incident first: a start that it asked for and did not get is made by its rung, not twice."""
        memory = self.ground.ledger.load_state(self.run)
        if isinstance(memory, dict):
            driver.resume(memory)
        if running.child is None:
            running.start(running.levels)

    def _recall(self, running: Running) -> str:
        """A supervisor that was killed in the middle goes on counting where it was (law 11).

        Returns why nothing may be started any more, empty where a start is allowed.
        """
        kept = self.ground.ledger.load_state(f"{self.run}#starts")
        if not isinstance(kept, dict) or kept.get("over") is not False:
            return ""
        with contextlib.suppress(KeyError, TypeError, ValueError):
            self._starts.load(kept)
            self._told = len(self._starts.endings)
            levels = kept.get("at")
            running.levels = {str(k): int(str(v)) for k, v in levels.items()} if isinstance(levels, dict) else {}
            self.ground.say(f"a supervisor of this command was killed: {self._starts.num} starts are remembered")
            refused = self._starts.why_not()
            return f"{refused}, before it was killed; call it once more to begin afresh" if refused else ""
        return ""

    def _keep(self, running: Running, *, over: bool) -> None:
        state: dict[str, Plain] = {**self._starts.state(), "over": over, "at": {**running.levels}}
        self.ground.ledger.save_state(f"{self.run}#starts", state)

    def _watch(self, running: Running, workload: ProcessWorkload, driver: Driver) -> str:
        """Look until it is over; returns why it was given up, empty where it was not."""
        requests = Requests(driver)
        while True:
            running.await_end(self.options.every_s)
            if running.child is not None and running.child.status is not None:
                running.finish()
            if self._is_done(running):
                self._judge(workload, driver)
                return ""
            if running.child is None and (running.asked_to_end or self._is_unheard()):
                return ""
            self._tell_endings(running, driver)
            self._look(workload, driver)
            requests.honour_if_due()
            if workload.stop_reason:
                return workload.stop_reason
            if running.child is None and driver.engine.climbing is None and not driver.engine.queue:
                return self._starts.why_not() or "nothing in the ladder could mend it"

    def _is_done(self, running: Running) -> bool:
        last = self._starts.last
        return running.child is None and last is not None and last.kind == "well"

    def _is_unheard(self) -> bool:
        last = self._starts.last
        return last is not None and last.kind == "unheard"

    def _look(self, workload: ProcessWorkload, driver: Driver) -> None:
        self._tick += 1
        driver.tick(workload.look(driver.seconds), self._tick)

    def _judge(self, workload: ProcessWorkload, driver: Driver) -> None:
        """It ended well: what is still open is judged by what can be seen of that."""
        for _ in range(_LAST_LOOKS):
            if driver.engine.climbing is None and not driver.engine.queue:
                return
            self._look(workload, driver)

    def _tell_endings(self, running: Running, driver: Driver) -> None:
        """Write each ending once, and keep what must survive the supervisor's own death."""
        endings = self._starts.endings
        for ended in endings[self._told :]:
            self._note_ending(driver, ended)
        if len(endings) != self._told or self._tick == 0:
            self._keep(running, over=False)
        self._told = len(endings)

    def _note_ending(self, driver: Driver, ended: Ended) -> None:
        told: dict[str, Plain] = {"start": ended.start, "kind": ended.kind, "step": ended.step, "same": ended.same}
        self._note(driver, "command ended", why=ended.words if ended.kind != "stopped" else ended.signature, **told)

    def _note(self, driver: Driver, what: str, **data: Plain) -> None:
        driver.note(Record("run", "", None, self._tick, driver.seconds, {"what": what, **data}))

    def _sum_up(self, running: Running, driver: Driver, why: str, seconds: float) -> Summary:
        if running.child is not None:
            running.stop(f"given up: {why}")
        self._tell_endings(running, driver)
        if running.lost:
            self._note(driver, "output lost", why=running.lost)
            self.ground.say(running.lost)
        last = self._starts.last
        verdict, code = verdict_of(last, running.asked_to_end, why, restarts_allowed=self.options.restarts > 0)
        if verdict != "given up":
            why = ""
        self._note(driver, "ended", steps=self._progress.step, why=why, verdict=verdict, exit_code=code)
        self._keep(running, over=True)
        return self._summary(verdict, why, code, seconds)

    def _summary(self, verdict: str, why: str, code: int, seconds: float) -> Summary:
        return Summary(
            self.command, verdict, why, code, self._starts.restarts, tuple(self._starts.endings),
            self.options.memory_limit, self._limit_by, seconds, self.run, str(self.ground.place),
        )  # fmt: skip


def run_name(command: tuple[str, ...]) -> str:
    """The run's name in the ledger: the same command in the same folder is the same run."""
    digest = hashlib.sha256("\0".join((os.getcwd(), *command)).encode()).hexdigest()[:8]
    return str(Path.cwd() / f"supervise-{Path(command[0]).name}-{digest}")


def _params(options: Options) -> dict[str, dict[str, str | int | float | bool]]:
    """What the command line says of thresholds, over the register's."""
    params = {risk: dict(values) for risk, values in options.params.items()}
    params.setdefault("process/leaking-memory", {}).setdefault("stop_before_s", 2.0 * options.grace_s)
    params.setdefault("process/crash-loop", {})["same_endings"] = options.same_crashes
    params.setdefault("process/disk-filling", {})["pause_below_gb"] = options.disk_free / GIB
    if options.heartbeat_s is not None:
        params.setdefault("process/silent", {})["silent_s"] = options.heartbeat_s
    return params
