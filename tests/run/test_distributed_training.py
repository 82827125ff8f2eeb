"""Two real processes under gloo, DDP and FSDP2: they skip, restore, stop and resume together, or not at all."""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from premortem.ledger.ledger import Ledger
from premortem.run.evidence import runs
from premortem.stages.train.checkpoint import Shelf, verify_bundle

JOB = Path(__file__).with_name("distributed_job.py")
WARM = ["torch", "torch.distributed.fsdp", "premortem.run.training"]
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(WARM)  # torch is imported once, not by each of some twenty processes


@dataclass
class Ended:
    """How each process ended: exit codes, what they wrote, the end of what they said."""

    codes: list[int]
    ends: list[dict[str, Any]]
    said: list[str]


def _live(arguments: list[str], env: dict[str, str], said: str) -> None:
    """One process of a job, as a shell would start it."""
    os.environ.update(env)
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), sys.stderr.fileno())
    sys.argv = arguments
    runpy.run_path(arguments[0], run_name="__main__")


class Job:
    """A job of so many processes, started as torchrun starts them."""

    def __init__(self, folder: Path, kind: str, steps: int, fault: str = "{}", *, size: int = 2, patience: int = 60):
        folder.mkdir(exist_ok=True)
        for old in folder.glob("end-*.json"):
            old.unlink()
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        env = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        env |= {"PEER_TIMEOUT": str(patience)}
        arguments = [str(JOB), str(folder), kind, str(steps), fault]
        self.processes = [
            FORKS.Process(target=_live, args=(arguments, {**env, "RANK": str(r)}, str(folder / f"said-{r}")))
            for r in range(size)
        ]
        for process in self.processes:
            process.start()

    def wait(self, *, ranks: tuple[int, ...] = ()) -> Ended:
        """Until all have ended, or those of ``ranks``; then the others are ended."""
        try:
            for rank, process in enumerate(self.processes):
                if not ranks or rank in ranks:
                    process.join(200)
        finally:
            for process in self.processes:
                if process.is_alive():
                    process.kill()
                    process.join()
        found = [self.folder / f"end-{r}.json" for r in range(len(self.processes))]
        ends = [json.loads(path.read_text()) for path in found if path.exists()]
        said = [(self.folder / f"said-{r}").read_text() for r in range(len(self.processes))]
        return Ended([int(p.exitcode or 0) for p in self.processes], ends, said)


def test_a_fault_in_one_process_is_answered_by_both_and_a_restore_leaves_them_bit_identical(tmp_path: Path) -> None:
    fault = '{"rank": 1, "nan": [30, 31]}'
    ended = Job(tmp_path / "ddp", "ddp", 60, fault).wait()
    assert ended.codes == [0, 0], ended.said
    one, other = ended.ends
    assert one["digests"] == other["digests"]
    assert one["digests"]["31"] == one["digests"]["30"]
    assert one["rungs"] == other["rungs"] == ["skip the offending batch"]
    assert (one["ticks"], one["steps"]) == (60, 59)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_the_factor_on_the_rate_and_the_restore_are_agreed(kind: str, tmp_path: Path) -> None:
    ended = Job(tmp_path / kind, kind, 320, '{"lr": [90, 120, 1000]}').wait()
    assert ended.codes == [0, 0], ended.said
    one, other = ended.ends
    assert one["events"] == other["events"]
    assert one["rungs"] == other["rungs"]
    assert {"cut the learning rate", "restore the last good checkpoint"} <= set(one["rungs"])
    assert one["finite"]
    assert other["finite"]
    assert one["steps"] == other["steps"] < 320
    if kind == "ddp":
        assert one["digests"] == other["digests"]
    assert "incident" in ended.said[0]
    assert "incident" not in ended.said[1]  # people are told once


def test_a_killed_process_ends_the_other_with_one_line_and_the_restart_ends_as_the_whole_run(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    killed, whole = Job(folder, "ddp", 70, '{"rank": 1, "kill": 47}'), Job(tmp_path / "whole", "ddp", 70)
    ended = killed.wait()
    assert ended.codes == [1, -signal.SIGKILL]
    last = ended.said[0].strip().splitlines()[-1]
    assert "PeerLost: process 0 of 2: another process is gone" in last
    ledger = Ledger.open(folder / "ckpt" / "ledger.db")
    assert "another process is gone" in runs(ledger)[0].why
    ledger.close()

    again, expected = Job(folder, "ddp", 70).wait(), whole.wait()
    assert again.codes == expected.codes == [0, 0], again.said
    for mine, others in zip(again.ends, expected.ends, strict=True):
        assert mine["began_at"] == 40
        assert mine["digests"]["70"] == others["digests"]["70"]


def test_a_process_that_hangs_ends_the_other_within_the_groups_timeout(tmp_path: Path) -> None:
    ended = Job(tmp_path / "hung", "ddp", 60, '{"rank": 1, "stop": 25}', patience=6).wait(ranks=(0,))
    assert ended.codes[0] == 1
    assert "PeerLost: process 0 of 2: another process is gone, or silent for 6 s" in ended.said[0]


def test_sharded_bundles_survive_sigterm_to_one_process_a_damaged_shard_and_fewer_processes(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    stopped, whole = Job(folder, "fsdp", 70, '{"rank": 1, "term": 46}'), Job(tmp_path / "whole", "fsdp", 70)
    ended = stopped.wait()
    assert ended.codes == [128 + signal.SIGTERM] * 2, ended.said
    newest = Shelf(folder / "ckpt", own=False).latest()
    assert newest is not None
    assert newest.step == 47
    manifest = verify_bundle(newest.path)
    assert {f.name for f in manifest.files} == {".metadata", "__0_0.distcp", "__1_0.distcp"}

    again, expected = Job(folder, "fsdp", 70).wait(), whole.wait()
    assert again.codes == expected.codes == [0, 0], again.said
    for mine, others in zip(again.ends, expected.ends, strict=True):
        assert mine["began_at"] == 47
        assert mine["sharded"]
        assert mine["digests"]["70"] == others["digests"]["70"]

    damaged = Shelf(folder / "ckpt", own=False).latest()
    assert damaged is not None
    shard = damaged.path / "__1_0.distcp"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    alone = Job(folder, "alone", 90, size=1).wait()
    assert alone.codes == [0], alone.said
    assert "__1_0.distcp: does not match its hash" in alone.said[0]
    assert alone.ends[0]["began_at"] == 67
    assert not alone.ends[0]["sharded"]
    assert alone.ends[0]["finite"]
    ledger = Ledger.open(folder / "ckpt" / "ledger.db")
    assert any("another number of processes" in gap for gap in runs(ledger)[0].unwatched)
    ledger.close()


def test_what_cannot_be_guarded_together_is_refused_in_all_processes_and_one_may_ask_to_be_alone(
    tmp_path: Path,
) -> None:
    ended = Job(tmp_path / "job", "refusals", 1).wait()
    assert ended.codes == [0, 0], ended.said
    for said in ended.ends:
        assert "found LBFGS" in said["lbfgs"]
        assert "gradient_filter= with a sharded model" in said["filter"]
        assert "expected one folder for all" in said["folder"]
        assert said["alone"] == "went on, 1"
