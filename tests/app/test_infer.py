"""``premortem infer``: a real server from the command line, its end by SIGTERM, and one line for each mistake."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
import torch

from premortem.app.cli.exits import FINDINGS, MISTAKE
from premortem.stages.serve.clients import seeded_bundle
from premortem.stages.train.hrm import HRM, HRMConfig
from premortem.stages.train.hrm.card import save_model
from premortem.stages.train.hrm.config import Halting

CONFIG = HRMConfig(
    seq_len=16, vocab_size=5, hidden_size=16, num_heads=2, expansion=2.0, width_multiple=16, high_layers=1,
    low_layers=1, cycles=1, steps_per_cycle=1, positions="learned", loss="softmax", halting=Halting(max_segments=4),
)  # fmt: skip
COMMAND = [sys.executable, "-m", "premortem.app.cli.main", "infer"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return save_model(tmp_path_factory.mktemp("model"), 7, HRM(CONFIG), task="sudoku", size=4)


@contextlib.contextmanager
def served(bundle: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """The command in a process of its own, when it is ready, and a client of it."""
    words = [*COMMAND, str(bundle), "--port", "0", "--timeout", "60", *options]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, env=ENVIRONMENT, cwd=bundle.parent) as process:
        try:
            assert process.stdout is not None
            address = re.search(r"http://\S+:\d+", process.stdout.readline())
            assert address is not None
            assert "ready after" in process.stdout.readline()
            with httpx.Client(base_url=address[0], timeout=60) as client:
                yield process, client
        finally:
            process.kill()


def half_a_request(client: httpx.Client) -> socket.socket:
    """A client that has promised a body and sent a part of it."""
    assert client.base_url.port is not None
    line = socket.create_connection((client.base_url.host, client.base_url.port), timeout=60)
    line.sendall(b"POST /v1/solve/sudoku HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
    return line


def test_it_serves_until_it_is_told_to_end_and_finishes_what_it_accepted(bundle: Path) -> None:
    with served(bundle) as (process, client):
        assert client.get("/readyz").status_code == 200
        told = client.post("/v1/solve/sudoku", json={"puzzle": [0] * 16}).json()
        assert (told["policy"], len(told["solution"])) == ("hrm", 16)
        half_a_request(client).close()
        process.send_signal(signal.SIGHUP)
        while client.get("/v1/models").json()["models"][0]["load"] == 1:
            pass
        assert client.post("/v1/solve/sudoku", json={"puzzle": [1] + [0] * 15}).json()["load"] == 2
        process.send_signal(signal.SIGTERM)
        last, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "accepted 2, answered 2, refused after acceptance 0" in last
    assert "Traceback" not in errors, "a client that hangs up is no fault"


@pytest.mark.parametrize(("grace", "signals"), [("1", 1), ("600", 2)])
def test_who_still_waits_when_the_grace_is_over_is_told_so(bundle: Path, grace: str, signals: int) -> None:
    puzzles = [[digit] + [0] * 15 for digit in range(1, 5)]
    options = ("--grace", grace, "--silent", "60", "--no-guard")
    with served(bundle, *options) as (process, client), ThreadPoolExecutor(len(puzzles)) as clients:
        worker = next(
            child for child in psutil.Process(process.pid).children() if "worker" in " ".join(child.cmdline())
        )
        worker.suspend()
        waiting = [clients.submit(client.post, "/v1/solve/sudoku", json={"puzzle": puzzle}) for puzzle in puzzles]
        while "inference_queue_length 4.0" not in client.get("/metrics").text:
            pass
        slow = half_a_request(client)
        assert client.get("/healthz").status_code == 200
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(httpx.TransportError):  # until it has heard the signal
            while httpx.get(f"{client.base_url}/healthz"):
                pass
        for _ in range(signals - 1):
            process.send_signal(signal.SIGTERM)
        for reply in (one.result() for one in waiting):
            assert (reply.status_code, reply.json()["reason"]) == (503, "closing")
            assert f"not finished within the grace of {grace if signals == 1 else 0} s" in reply.json()["error"]
        with slow, slow.makefile("rb") as heard:
            told = heard.read()
            assert told.startswith(b"HTTP/1.1 503"), "not in the accounts, and told as well"
            assert b'"reason":"closing"' in told
        last, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "accepted 4, answered 0, refused after acceptance 4, withdrawn 0" in last
    assert "Traceback" not in errors
    assert not psutil.pid_exists(worker.pid)


def test_each_mistake_is_one_line_and_exit_code_2(premortem, bundle: Path, tmp_path: Path) -> None:
    def told(*words: str) -> str:
        said = premortem("infer", *words)
        assert said.code == MISTAKE
        assert said.err.count("\n") == 1
        return str(said.err)

    assert "found no checkpoint there" in told(str(tmp_path / "none"))
    assert "expected model and card" in told(str(seeded_bundle(tmp_path, CONFIG, 0)), "--port", "0")
    assert "--task maze: the checkpoint is of sudoku" in told(str(bundle), "--task", "maze")
    missing = str(tmp_path / "policy")
    assert "found no file there, expected a fallback policy" in told(str(bundle), "--fallback", missing)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        said = told(str(bundle), "--port", str(taken.getsockname()[1]))
    assert "Address already in use; choose another --host or --port" in said
    for wrong in ("-1", "0", "1000", "inf", "nan"):
        assert "expected more than 0 and at most 600 seconds" in told(str(bundle), "--timeout", wrong)
    for option in ("--silent", "--grace"):
        assert "found inf, expected" in told(str(bundle), option, "inf")
        assert "found nan, expected" in told(str(bundle), option, "nan")
    assert "register" in told(str(bundle), "--register", "nonesuch")
    (tmp_path / "file").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREMORTEM_LEDGER", str(tmp_path / "file" / "ledger.db"))
        assert "its folder cannot be made" in told(str(bundle))


def test_a_damaged_checkpoint_is_one_line(premortem, bundle: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(bundle, tmp_path / bundle.name)
    weights = bytearray((damaged / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (damaged / "model.safetensors").write_bytes(weights)
    said = premortem("infer", str(damaged), "--port", "0")
    assert (said.code, said.err.count("\n")) == (FINDINGS, 1)
    assert "model.safetensors" in said.err
