"""A guarded service: its ledger and its baseline lie together, and a person's new normal reaches both."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import torch

from premortem import Guard
from premortem.core.errors import ConfigError
from premortem.ledger.ledger import Ledger
from premortem.run.evidence import request
from premortem.run.serving import BASELINE, ServiceGuard
from premortem.stages.serve.service import Service, ServiceConfig, running
from premortem.stages.serve.service.latency_baseline import Healthy
from premortem.stages.train.hrm import HRM, HRMConfig
from premortem.stages.train.hrm.card import save_model
from premortem.stages.train.hrm.config import Halting

CONFIG = HRMConfig(
    seq_len=16, vocab_size=5, hidden_size=16, num_heads=2, expansion=2.0, width_multiple=16, high_layers=1,
    low_layers=1, cycles=1, steps_per_cycle=1, positions="learned", loss="softmax", halting=Halting(max_segments=4),
)  # fmt: skip
BLANK = [0] * 16


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return save_model(tmp_path_factory.mktemp("model"), 7, HRM(CONFIG), task="sudoku", size=4)


def serve(bundle: Path, guard: ServiceGuard, scene: object) -> None:
    async def main() -> None:
        async with running(
            Service([bundle], ServiceConfig(timeout_s=60, max_wait_s=60, cache=0), on_start=[guard])
        ) as service:
            await scene(service)  # type: ignore[operator]

    try:
        asyncio.run(main())
    finally:
        guard.close()


async def ticks(guard: ServiceGuard, count: int) -> None:
    assert guard.watch is not None
    until = guard.watch.ticks + count
    while guard.watch.ticks < until:
        await asyncio.sleep(0.01)


def test_readings_go_into_the_ledger_and_a_baseline_is_learned_beside_it(bundle: Path, tmp_path: Path) -> None:
    guard = ServiceGuard(Guard("hrm"), tmp_path / "home" / "ledger.db", period_s=0.02)

    async def scene(service: Service) -> None:
        assert guard.workload is not None
        while guard.workload.baseline.known is None:
            await asyncio.gather(*(service.answer(BLANK) for _ in range(50)))
        await ticks(guard, 3)

    serve(bundle, guard, scene)
    kept = json.loads((tmp_path / "home" / BASELINE).read_text("utf-8"))
    assert len(kept["entries"]) == 1
    assert next(iter(kept["entries"])).startswith("sudoku · step-00000007 · depth 4 · ")


def test_a_new_normal_that_a_person_asked_for_meanwhile_is_learned_again(bundle: Path, tmp_path: Path) -> None:
    place = tmp_path / "ledger.db"

    async def learn(service: Service) -> None:
        assert first.workload is not None
        first.workload.baseline._keep(Healthy(1.0, 2.0, 5))

    async def again(service: Service) -> None:
        assert second.workload is not None
        assert second.workload.baseline.known is None

    first, second = (ServiceGuard(Guard("hrm"), place, period_s=0.02) for _ in range(2))
    serve(bundle, first, learn)
    ledger = Ledger.open(place, run="service sudoku")
    request(ledger, "rebaselined", "", "a person")
    ledger.close()
    serve(bundle, second, again)


def test_a_baseline_that_cannot_be_read_is_told_once_and_the_service_serves(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / BASELINE).write_text("{", "utf-8")
    told: list[str] = []
    guard = ServiceGuard(Guard("hrm"), tmp_path / "ledger.db", period_s=0.02, say=told.append)

    async def scene(service: Service) -> None:
        await ticks(guard, 5)
        assert len((await service.answer(BLANK)).answer.tokens) == 16

    serve(bundle, guard, scene)
    assert len(told) == 1
    assert BASELINE in told[0]


def test_a_register_that_watches_no_service_is_a_mistake_in_one_line(bundle: Path, tmp_path: Path) -> None:
    async def never(service: Service) -> None:
        raise AssertionError("it must not start")

    with pytest.raises(ConfigError, match="'service'"):
        serve(bundle, ServiceGuard(Guard("supervise"), tmp_path / "ledger.db"), never)


def test_a_wedged_worker_of_the_command_is_an_incident_in_the_ledger(bundle: Path, tmp_path: Path) -> None:
    """The whole of it: the command, a worker stopped by the kernel, the restart, and the evidence of it."""
    words = [sys.executable, "-m", "premortem.app.cli.main", "infer", str(bundle), "--port", "0", "--timeout", "120"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PREMORTEM_LEDGER": str(tmp_path / "ledger.db")}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        address = re.search(r"http://\S+:\d+", process.stdout.readline())
        assert address is not None
        process.stdout.readline()
        with httpx.Client(base_url=address[0], timeout=120) as client:
            assert client.post("/v1/solve/sudoku", json={"puzzle": BLANK}).json()["load"] == 1
            (worker,) = [int(pid) for pid in _children(process.pid)]
            os.kill(worker, signal.SIGSTOP)
            told = client.post("/v1/solve/sudoku", json={"puzzle": [1, *BLANK[1:]]}).json()
            assert told["load"] == 2, "asked of the new worker, not lost"
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
    shown = subprocess.run(
        [sys.executable, "-m", "premortem.app.cli.main", "incidents", "list", "--json"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert [incident["entry"] for incident in json.loads(shown.stdout)] == ["HRM-9.2.1"]


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()


def test_a_new_normal_is_accepted_while_the_service_runs_and_nothing_is_wrong(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("premortem.run.home._ASK_SELDOM_S", 0.1)
    guard = ServiceGuard(Guard("hrm"), tmp_path / "ledger.db", period_s=0.02)

    async def scene(service: Service) -> None:
        assert guard.workload is not None
        guard.workload.baseline._keep(Healthy(1.0, 2.0, 5))
        ledger = Ledger.open(tmp_path / "ledger.db", run="service sudoku")
        request(ledger, "rebaselined", "", "a person")
        ledger.close()
        for _ in range(3000):
            if guard.workload.baseline.known is None:
                return
            await asyncio.sleep(0.01)
        raise AssertionError("it never came to that")

    serve(bundle, guard, scene)
