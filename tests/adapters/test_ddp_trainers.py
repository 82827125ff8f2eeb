"""The Trainers' callbacks in two real processes under DDP: one process's fault is answered by both."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from premortem.ledger.ledger import Ledger
from premortem.run.evidence import incidents

JOB = Path(__file__).with_name("ddp_trainers.py")


@pytest.mark.parametrize("which", ["transformers", "lightning"])
def test_a_loss_that_is_nan_in_one_process_is_skipped_by_both(which: str, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    processes = []
    for rank in (0, 1):
        env = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "NODE_RANK": "0"}
        env |= {"LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0"}
        with (tmp_path / f"said-{rank}").open("w") as said:
            command = [sys.executable, str(JOB), str(tmp_path), which]
            processes.append(subprocess.Popen(command, env=env, stdout=said, stderr=said))
    try:
        codes = [process.wait(200) for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
    assert codes == [0, 0], [(tmp_path / f"said-{r}").read_text()[-2000:] for r in (0, 1)]
    one, other = (json.loads((tmp_path / f"end-{r}.json").read_text()) for r in (0, 1))
    assert one == other
    assert one["size"] == 2
    assert one["finite"]
    assert one["digests"]["31"] == one["digests"]["30"]
    assert one["digests"]["32"] != one["digests"]["31"]
    ledger = Ledger.open(tmp_path / "premortem" / "ledger.db")
    found = incidents(ledger)
    ledger.close()
    assert [rung.rung for rung in found[0].rungs] == ["skip the offending batch"]
