"""A run among the processes of its training: who agrees with whom, whose clock, where evidence goes."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from premortem.core.engine import Engine
from premortem.core.errors import ConfigError
from premortem.ledger.ledger import Ledger
from premortem.run.distributed.agreeing import Agreed, AgreeingDriver, Agreement, Row, SharedClock
from premortem.run.driver import Driver
from premortem.run.subject import Subject
from premortem.run.telling import tell
from premortem.stages.train.distributed.peers import ALONE, Peers, find_peers, unheard_of
from premortem.stages.train.distributed.shards import is_sharded
from premortem.stages.train.guarded.workload import TrainingWorkload


class Company:
    """Alone, or one of several. Only the first process writes what people read.

    Raises:
        ConfigError: for what cannot be guarded in several processes.
        PeerLost: when not all of them come.
    """

    def __init__(self, subject: Subject, report: Callable[[str], None], *, alone: bool = False) -> None:
        self._report = report
        self.peers: Peers = ALONE if alone else find_peers()
        self._is_asked_alone = alone
        self._subject = subject
        self._clock = SharedClock()
        self._began = time.monotonic()
        self._agreement: Agreement | None = None
        self._own: contextlib.ExitStack = contextlib.ExitStack()
        self._own.callback(self.peers.close)
        _require_fit(subject, self.peers)

    def ledger(self, given: Ledger | str | Path | None) -> Ledger:
        """The ledger to write to; one that was opened here is closed by :meth:`leave`.

        The first process has the run's. Any other has one of its own that goes when the run ends: its kernel wants
        evidence kept, too, but what people read is written once.
        """
        subject = self._subject
        if self.peers.is_first:
            if given is not None and not isinstance(given, str | Path):
                return given
            beside = None if subject.folder is None or given is not None else subject.folder / "ledger.db"
            place = given or beside
        else:
            own = tempfile.TemporaryDirectory(prefix="premortem-", ignore_cleanup_errors=True)
            folder = self._own.enter_context(own)
            place = Path(folder) / "ledger.db"
        ledger = Ledger.open(place, run=subject.name)
        self._own.callback(ledger.close)
        return ledger

    def driver(
        self, engine: Engine, workload: TrainingWorkload, ledger: Ledger, *,
        patience_s: float, mark_good: Callable[[int], bool],
    ) -> Driver:  # fmt: skip
        """The driver of this process's kernel."""
        self._agreement = Agreement(self.peers, workload.signals)
        driver = AgreeingDriver(
            engine, workload, ledger, peers=self.peers, run=self._subject.name,
            patience_s=patience_s, mark_good=mark_good,
            clock=time.monotonic if self.peers.is_alone else self._clock,
        )  # fmt: skip
        if self.peers.is_first:
            driver.listen(tell)
        return driver

    def agree(self, row: Row, *, is_due: bool, is_asked: bool) -> Agreed:
        """The step as all processes see it; the clock then stands where the first one's does.

        Raises:
            PeerLost: when a process is gone.
        """
        assert self._agreement is not None
        agreed = self._agreement.of(row, time.monotonic() - self._began, is_due=is_due, is_asked=is_asked)
        self._clock.seconds = agreed.seconds
        for name in agreed.missing_in_some:
            self._report(f"the signal {name!r} is missing in some processes, so it counts as missing in all")
        return agreed

    def gaps(self) -> list[str]:
        """What cannot be done in this company, in words."""
        alone = "" if self._is_asked_alone else unheard_of()
        if self.peers.is_alone:
            return [alone] if alone else []
        return [f"{self.peers.size} processes: one that fails inside its forward or backward pass ends all of them"]

    def leave(self) -> None:
        """Close what was opened here."""
        self._own.close()


def _require_fit(subject: Subject, peers: Peers) -> None:
    if peers.is_alone:
        return
    model, optimizer, with_ = subject.model, subject.optimizer, subject.companions
    refused: dict[str, bool] = {
        "LBFGS, which evaluates the loss itself": isinstance(optimizer, torch.optim.LBFGS),
        "a ZeroRedundancyOptimizer, whose state no process has": type(optimizer).__name__ == "ZeroRedundancyOptimizer",
        "FSDP version 1": any(type(m).__name__ == "FullyShardedDataParallel" for m in model.modules()),
    }
    if is_sharded(model):
        kept: dict[str, Any] = {"ema": with_.ema, "gradient_filter": with_.gradient_filter, "scaler": with_.scaler}
        refused |= {f"{name}= with a sharded model": thing is not None for name, thing in kept.items()}
    for what, is_there in refused.items():
        if is_there:
            raise ConfigError(
                f"guard.training: found {what} in a training of {peers.size} processes, expected "
                "DistributedDataParallel or fully_shard (FSDP2) with a plain optimizer; see docs/distributed.md"
            )
