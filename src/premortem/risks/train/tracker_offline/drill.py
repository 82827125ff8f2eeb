"""A training run that logs to a real mlflow server through a proxy, which is dead or hangs for a part of the run.

The unguarded twin calls mlflow's client in its loop, with a `try` around it, and gives up after five failures in a
row, as a careful script does. Its patience is cut from mlflow's own (120 s, seven times, in each call) to a second, so
that the drill ends; by default it would lose the time as well. What is judged is what the server's database has in
the end.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from uuid import uuid4

import psutil
import torch
from torch import nn

from premortem.core.drill import Bounds
from premortem.faults.fault import Fault
from premortem.faults.network import BadNetwork, TcpProxy
from premortem.risks.case import Ticking, WatchedCase
from premortem.risks.train.tracker_offline.server import MlflowServer
from premortem.stages import tracking
from premortem.stages.tracking.sync import sync
from premortem.stages.tracking.workload import TrackerWorkload

AT, TICKS, LASTS = 8, 190, 170
TICK_S = 6.0
"""Seconds of the tracker's clock that a tick stands for: a minute's patience is ten ticks."""
_WAIT_S = 0.3
_PATIENT_S = 30.0


@cache
def server() -> MlflowServer:
    """One server for all arms of this process; every arm has a run of its own."""
    home = Path(tempfile.mkdtemp(prefix="premortem-mlflow-"))
    stack = ExitStack()
    stack.callback(shutil.rmtree, home, ignore_errors=True)
    found = stack.enter_context(MlflowServer(home))
    atexit.register(stack.close)
    return found


class Run:
    """A small model that is trained; `log` gets each tick's loss."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        self.x, self.y = torch.randn(256, 64, generator=generator), torch.randn(256, 1, generator=generator)
        self.logged: list[tuple[int, float]] = []
        self.name = f"run-{seed}-{uuid4().hex[:8]}"
        self.proxy = TcpProxy(server().port)
        self.proxy.__enter__()

    def step(self, tick: int) -> float:
        """Five optimiser steps; returns the loss."""
        for _ in range(5):
            loss = (self.model(self.x) - self.y).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        self.logged.append((tick, float(loss.detach())))
        return self.logged[-1][1]

    def digest(self) -> str:
        """Of the weights: with a tracker and without they must be the same."""
        return f"{zlib.crc32(b''.join(p.detach().numpy().tobytes() for p in self.model.parameters())):08x}"

    def share_wrong(self) -> float:
        """Of all records, the share that the database lacks or has twice, asked beside the proxy."""
        from mlflow.tracking import MlflowClient

        client = MlflowClient(f"http://127.0.0.1:{server().port}")
        experiment = client.get_experiment_by_name("drill")
        found = [] if experiment is None else [experiment.experiment_id]
        runs = client.search_runs(found, f"attributes.run_name = '{self.name}'")
        there = Counter(m.step for run in runs for m in client.get_metric_history(run.info.run_id, "loss"))
        wrong = sum(there[tick] != 1 for tick, _ in self.logged)
        return wrong / len(self.logged)


class Plain:
    """mlflow's client in the loop."""

    def __init__(self, seed: int) -> None:
        from mlflow.tracking import MlflowClient

        self.run = Run(seed)
        self.failures = 0
        self.client = MlflowClient(f"http://127.0.0.1:{self.run.proxy.port}")
        with _impatient(30):
            found = self.client.get_experiment_by_name("drill")
            experiment = found.experiment_id if found else self.client.create_experiment("drill")
            self.id = self.client.create_run(experiment, run_name=self.run.name).info.run_id
        self.advance(0)

    def advance(self, tick: int) -> list[float | None]:
        """Train, log, and go on when that fails."""
        loss = self.run.step(tick)
        if self.failures < 5:
            try:
                with _impatient(1 if AT <= tick < AT + LASTS else 30):
                    self.client.log_metric(self.id, "loss", loss, step=tick)
                self.failures = 0
            except Exception:
                self.failures += 1
        return []


@contextmanager
def _impatient(seconds: int) -> Iterator[None]:
    """mlflow's client reads its patience from the environment at each call."""
    names = {"MLFLOW_HTTP_REQUEST_TIMEOUT": str(seconds), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class Spooled:
    """The same run with premortem's tracker."""

    def __init__(self, seed: int) -> None:
        self.run = Run(seed)
        self.home = Path(tempfile.mkdtemp(prefix="premortem-spool-"))
        self.tick = 0
        place = {"mlflow": f"http://127.0.0.1:{self.run.proxy.port}"}
        self.tracker = tracking.open(place, project="drill", run=self.run.name, spool=self.home, close_s=_PATIENT_S)
        self.workload = TrackerWorkload(self.tracker, clock=lambda: self.tick * TICK_S)
        self.advance(0)
        self._wait(_PATIENT_S)  # the drill's faults come to a tracker that works

    def advance(self, tick: int) -> list[float | None]:
        """Train and log; then let time pass for the sender, as a longer step would."""
        self.tick = tick
        self.tracker.log({"loss": self.run.step(tick)}, step=tick)
        self._wait(_WAIT_S)
        return self.workload.row()

    def outcome(self) -> float:
        """After the run, and a sync of what it left."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            left = self.tracker.close()
        if left:
            sync(self.home, wait_s=_PATIENT_S)
        return self.run.share_wrong()

    def close(self) -> None:
        """Whatever happened."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            self.tracker.close()
        self.run.proxy.close()
        shutil.rmtree(self.home, ignore_errors=True)

    def _wait(self, seconds: float) -> None:
        """Until all has arrived, or for so long; a worker that starts gets its time, however busy the machine is."""
        folder, began = self.tracker.folder, time.monotonic()
        until = began + seconds
        while time.monotonic() < until:
            states = [folder.status(sink) for sink in folder.sinks(folder.mode)]
            if folder.acting == folder.mode and all(state.sent >= self.tracker.spool.last for state in states):
                return
            if not all(state.run and psutil.pid_exists(state.pid) for state in states):
                until = min(began + _PATIENT_S, time.monotonic() + seconds)
            time.sleep(0.01)


def plain(seed: int) -> Ticking:
    """The twin without premortem."""
    run = Plain(seed)
    return Ticking(workload=_NOTHING, advance=run.advance, outcome=run.run.share_wrong, subject=run.run,
                   digest=run.run.digest, close=run.run.proxy.close)  # fmt: skip


def spooled(seed: int) -> Ticking:
    """The run that is guarded."""
    run = Spooled(seed)
    return Ticking(workload=run.workload, advance=run.advance, outcome=run.outcome, subject=run.run,
                   digest=run.run.digest, close=run.close)  # fmt: skip


class _Nothing:
    """A plain run offers nothing to watch."""

    kind = "tracker"
    signals = ()
    controls = {}  # type: ignore[var-annotated]
    witnesses = {}  # type: ignore[var-annotated]
    conditions = {}  # type: ignore[var-annotated]


_NOTHING = _Nothing()


def _bad(kind: str) -> Callable[[Ticking], Fault]:
    def fault(ticking: Ticking) -> Fault:
        assert isinstance(ticking.subject, Run)
        return BadNetwork(ticking.subject.proxy, kind)  # type: ignore[arg-type]

    return fault


_BOUNDS = Bounds(detect_within=30, absolute=1e-9)
CASES = (
    WatchedCase(name="tracker dead", build=spooled, plain=plain, fault=_bad("refuse"), at=AT, lasts=LASTS,
                num_ticks=TICKS, bounds=_BOUNDS),
    WatchedCase(name="tracker hangs", build=spooled, plain=plain, fault=_bad("hang"), at=AT, lasts=LASTS,
                num_ticks=TICKS, bounds=_BOUNDS),
)  # fmt: skip
