"""Runs the arms of a drill on any workload of one's own, a tick at a time."""

from __future__ import annotations

import math
import tempfile
import time
import zlib
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from premortem.core.drill import Arm, Seed
from premortem.core.engine import Engine
from premortem.faults.fault import Evidence, Fault, NotPermitted, RemovalFailed
from premortem.ledger.ledger import Ledger
from premortem.risks.case import Ticking, WatchedCase
from premortem.run.bind import bind
from premortem.run.confined import confined
from premortem.run.driver import Driver
from premortem.run.guard import Guard
from premortem.run.watcher import Watcher


class Disturbed:
    """Puts a fault on and takes it off once; remembers what its evidence said."""

    def __init__(self, fault: Fault | None) -> None:
        self.fault = fault
        self._stack = ExitStack()
        self.is_on = False
        self.observed: Evidence | None = None
        self.gone: Evidence | None = None
        self.note = ""

    def put_on(self) -> None:
        """Enter the fault; raises ``NotPermitted`` where rights lack."""
        if self.fault is not None and not self.is_on:
            self._stack.enter_context(self.fault)
            self.is_on = True

    def take_off(self) -> None:
        """Ask what was seen, leave the fault, ask whether it is gone."""
        if self.fault is None or not self.is_on:
            return
        self.is_on = False
        self.observed = self.fault.observed()
        try:
            self._stack.close()
        except RemovalFailed as error:
            self.note = str(error)
        self.gone = self.fault.gone()
        self.note = self.note or f"{self.observed.detail}; {self.gone.detail}"

    def verdict(self) -> tuple[bool | None, bool | None]:
        """Whether the fault was observed, and whether it is gone; ``None`` where it could not be established."""
        return (
            None if self.observed is None else self.observed.holds,
            None if self.gone is None else self.gone.holds,
        )


@dataclass(slots=True)
class _Trace:
    """The rows an arm saw: the digest of a watched baseline must be that of the plain one."""

    rows: list[str] = field(default_factory=list)

    def take(self, row: list[float | None]) -> None:
        self.rows.append(repr(row))

    @property
    def digest(self) -> str:
        return f"{zlib.crc32(chr(10).join(self.rows).encode()):08x}"


_HEALTHY: dict[object, Arm] = {}


def watched_seed(case: WatchedCase, seed: int, home: Path, guard: Guard) -> Seed:
    """The four arms of one seed. A process runs each healthy one once, for all cases of the same workload."""
    if case.params:
        guard = replace(guard, params={risk: dict(values) for risk, values in case.params.items()})
    healthy = (case.build, case.num_ticks, case.confined, seed)
    watched = (*healthy, repr(guard))
    if healthy not in _HEALTHY:
        _HEALTHY[healthy] = _arm(case, seed, None, home, faulted=False)
    if watched not in _HEALTHY:
        _HEALTHY[watched] = _arm(case, seed, guard, home, faulted=False)
    return Seed(
        seed, _HEALTHY[healthy], _HEALTHY[watched],
        _arm(case, seed, None, home, faulted=True), _arm(case, seed, guard, home, faulted=True),
    )  # fmt: skip


def _arm(case: WatchedCase, seed: int, guard: Guard | None, home: Path, *, faulted: bool) -> Arm:
    if case.confined:
        return confined(partial(_here, case, seed, guard, home, faulted=faulted), faulted=faulted)
    return _here(case, seed, guard, home, faulted=faulted)


def _here(case: WatchedCase, seed: int, guard: Guard | None, home: Path, *, faulted: bool) -> Arm:
    began = time.monotonic()
    build = case.build if guard is not None or case.plain is None else case.plain
    subject = build(seed)
    disturbed = Disturbed(case.fault(subject) if faulted else None)
    watcher, trace = Watcher(), _Trace()
    driver = None if guard is None else _driver(case, subject, guard, home)
    if driver is not None:
        driver.listen(watcher.hear)
    outcome, failure = math.nan, ""
    try:
        failure = _loop(case, subject, disturbed, watcher, trace, driver)
        disturbed.take_off()
        outcome = math.nan if failure else subject.outcome()
        digest = trace.digest if subject.digest is None else subject.digest()
    except NotPermitted as error:
        failure, digest = str(error), ""
    finally:
        disturbed.take_off()
        if subject.close is not None:
            subject.close()
        if driver is not None:
            driver.ledger.close()
    observed, gone = disturbed.verdict()
    return watcher.arm(
        Arm(
            outcome=outcome,
            fault_observed=observed,
            fault_gone=gone,
            digest=digest,
            ticks=case.num_ticks,
            seconds=time.monotonic() - began,
            note=failure or disturbed.note,
        )
    )


def _driver(case: WatchedCase, subject: Ticking, guard: Guard, home: Path) -> Driver:
    plan = bind(guard.active, subject.workload, guard.file.register)
    ledger = Ledger.open(Path(tempfile.mkdtemp(dir=home)) / "ledger.db", run=case.name)
    return Driver(Engine(plan), subject.workload, ledger, run=case.name)


def _loop(
    case: WatchedCase, subject: Ticking, disturbed: Disturbed, watcher: Watcher, trace: _Trace, driver: Driver | None
) -> str:
    """All ticks; returns what ended an unguarded arm early."""
    for tick in range(1, case.num_ticks + 1):
        if tick == case.at:
            watcher.fault_at = tick
            disturbed.put_on()
        elif tick >= case.at + case.lasts or watcher.recovered_at is not None:
            disturbed.take_off()
        try:
            row = subject.advance(tick)
        except NotPermitted:
            raise
        except (OSError, RuntimeError, MemoryError) as error:
            if driver is not None:
                raise
            return f"{type(error).__name__}: {error}"
        trace.take(row)
        if driver is not None:
            driver.tick(row, tick)
    return ""
