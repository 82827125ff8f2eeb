"""``premortem infer``: a real server from the command line, its end by SIGTERM, and one line for each mistake."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import torch

from premortem.app.cli.exits import MISTAKE
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


def test_it_serves_until_it_is_told_to_end_and_finishes_what_it_accepted(bundle: Path) -> None:
    words = [*COMMAND, str(bundle), "--port", "0", "--timeout", "60"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        assert process.stdout is not None
        address = re.search(r"http://\S+:\d+", process.stdout.readline())
        assert address is not None
        assert "ready after" in process.stdout.readline()
        with httpx.Client(base_url=address[0], timeout=60) as client:
            assert client.get("/readyz").status_code == 200
            told = client.post("/v1/solve/sudoku", json={"puzzle": [0] * 16}).json()
            assert (told["policy"], len(told["solution"])) == ("hrm", 16)
            process.send_signal(signal.SIGHUP)
            while client.get("/v1/models").json()["models"][0]["load"] == 1:
                pass
            assert client.post("/v1/solve/sudoku", json={"puzzle": [1] + [0] * 15}).json()["load"] == 2
        process.send_signal(signal.SIGTERM)
        last = process.stdout.read()
        assert process.wait(60) == 0
    assert "accepted 2, answered 2, refused after acceptance 0" in last


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
    assert "setting timeout_s: found -1.0" in told(str(bundle), "--timeout", "-1")
