"""Guards an inference service from its own loop: a reading each half second, carried out in the guard's thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from premortem.core.evidence import Record
from premortem.ledger.ledger import Ledger
from premortem.run.evidence import open_requests
from premortem.run.guard import Guard
from premortem.stages.serve.service.latency_baseline import LatencyBaseline
from premortem.stages.serve.service.workload import ServiceWorkload

if TYPE_CHECKING:
    from premortem.run.watching import Watch
    from premortem.stages.serve.service import Service

BASELINE = "latency-baseline.json"


class ServiceGuard:
    """Given to a service as its ``on_start`` hook; ``close`` it when the service has ended.

    Args:
        guard: by which register.
        ledger: the ledger's file; the baseline lies beside it.
        period_s: seconds between two readings.
        say: told what goes wrong in reading or learning, once each.

    Raises:
        ConfigError, StageError: on start, a register without an entry for a service, a home that another one holds.
    """

    def __init__(
        self, guard: Guard, ledger: Path, *, period_s: float = 0.5, say: Callable[[str], None] = print
    ) -> None:
        self._guard, self._place, self._period_s, self._say = guard, ledger, period_s, say
        self._ledger: Ledger | None = None
        self._task: asyncio.Task[None] | None = None
        self._told: set[str] = set()
        self.watch: Watch | None = None
        self.workload: ServiceWorkload | None = None

    def __call__(self, service: Service) -> None:
        """The service is ready: watch it from now on."""
        home = self._place.parent
        home.mkdir(parents=True, exist_ok=True)
        self.workload = ServiceWorkload(service, lambda key: LatencyBaseline(home / BASELINE, key))
        name = f"service {' + '.join(sorted(service.tasks))}"
        self._ledger = Ledger.open(self._place, run=name)
        if any(row.record.event == "rebaselined" for row in open_requests(self._ledger, name)):
            self.workload.rebaseline()  # asked for while no service was there
        watch = replace(self._guard, ledger=self._ledger).watching(self.workload, home=home, name=name)
        watch.__enter__()
        self.watch = watch
        watch.listen(self._hear)
        self._task = asyncio.get_running_loop().create_task(self._read(watch, self.workload))

    def close(self) -> None:
        """What was read is still carried out; then the evidence is closed."""
        if self._task is not None:
            self._task.cancel()
        if self.watch is not None:
            self.watch.__exit__(None, None, None)
        if self._ledger is not None:
            self._ledger.close()

    async def _read(self, watch: Watch, workload: ServiceWorkload) -> None:
        while True:
            await asyncio.sleep(self._period_s)
            try:
                watch.post(await asyncio.to_thread(workload.row))  # a baseline that is learned is written to the disk
            except Exception as error:  # one reading that fails must not be the last one
                self._tell(f"the service could not be read: {type(error).__name__}: {error}")
            self._tell(workload.baseline.fault)

    def _hear(self, record: Record) -> None:
        if record.event == "rebaselined" and self.workload is not None:
            self.workload.rebaseline()

    def _tell(self, what: str) -> None:
        if what and what not in self._told:
            self._told.add(what)
            self._say(what)
