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

from premortem.stages.serve.card import save_model
from premortem.stages.serve.clients import seeded_bundle
from premortem.stages.train.hrm import HRM, HRMConfig
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


def fails(*words: str) -> tuple[int, str]:
    run = subprocess.run([*COMMAND, *words], capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert "Traceback" not in run.stderr
    lines = [line for line in run.stderr.splitlines() if line.startswith("premortem:")]
    assert len(lines) == 1
    return run.returncode, lines[0]


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


def test_each_mistake_is_one_line_and_exit_code_2(bundle: Path, tmp_path: Path) -> None:
    assert fails(str(tmp_path / "none"))[0] == 2
    assert "found no checkpoint there" in fails(str(tmp_path / "none"))[1]
    bare = seeded_bundle(tmp_path, CONFIG, 0)
    code, said = fails(str(bare), "--port", "0")
    assert (code, "expected model and card" in said) == (2, True)
    code, said = fails(str(bundle), "--task", "maze")
    assert (code, "--task maze: the checkpoint is of sudoku" in said) == (2, True)
    code, said = fails(str(bundle), "--fallback", str(tmp_path / "policy"))
    assert (code, "found no file there, expected a fallback policy" in said) == (2, True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, said = fails(str(bundle), "--port", str(taken.getsockname()[1]))
    assert (code, "Address already in use; choose another --host or --port" in said) == (2, True)
    code, said = fails(str(bundle), "--timeout", "-1")
    assert (code, "setting timeout_s: found -1.0" in said) == (2, True)
