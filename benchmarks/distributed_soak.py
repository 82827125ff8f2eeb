"""Kill one process of a guarded training of two, again and again, and look whether the job always comes back.

Each round trains one small model (DDP and FSDP2 in turn) to its end through several lives. A life is a job of two
real processes; a random one of them is killed by SIGKILL at a random time, during steps and saves alike. The other
must then end by itself with one line; the job is started again. At the end of a round both processes must hold the
weights of an uninterrupted job, bit for bit, every bundle must verify, and the ledger's chain must hold.

    python benchmarks/distributed_soak.py --kills 20 --json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from premortem.ledger.ledger import Ledger
from premortem.stages.train.checkpoint import Shelf, verify_bundle

JOB = Path(__file__).parent.parent / "tests" / "run" / "distributed_job.py"
KINDS = ("ddp", "fsdp")
STEPS = 400
SIZE = 2
BOUND_S = 90.0


@dataclass
class Report:
    """What was done and what was found; ``problems`` is empty when every job came back."""

    kills: int = 0
    rounds: int = 0
    bundles: int = 0
    survivors_ended: int = 0
    longest_end_s: float = 0.0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


class Job:
    """Two processes, as torchrun starts them."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        env |= {"WORLD_SIZE": str(SIZE), "PEER_TIMEOUT": "60"}
        command = [sys.executable, str(JOB), str(folder), kind, str(STEPS)]
        self.processes = []
        for rank in range(SIZE):
            with (folder / f"said-{rank}").open("w") as said:
                self.processes.append(subprocess.Popen(command, env={**env, "RANK": str(rank)}, stderr=said))

    def wait(self, seconds: float) -> bool:
        """Whether all ended in time; what did not is ended."""
        end, in_time = time.monotonic() + seconds, True
        for process in self.processes:
            try:
                process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                in_time = False
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        return in_time

    @property
    def is_well(self) -> bool:
        return all(process.returncode == 0 for process in self.processes)

    def said(self) -> str:
        return " | ".join((self.folder / f"said-{r}").read_text()[-300:] for r in range(SIZE))


def end_of(folder: Path) -> list[object]:
    """The digest of each process's weights after the last step."""
    found = [json.loads((folder / f"end-{r}.json").read_text()) for r in range(SIZE)]
    return [end["digests"][str(STEPS)] for end in found]


def one_round(kind: str, home: Path, expected: list[object], chance: random.Random, left: int, report: Report) -> None:
    """Train to the end through kills, at most ``left`` of them."""
    folder = Path(tempfile.mkdtemp(dir=home, prefix=f"{kind}-"))
    lives = 0
    while True:
        began, job = time.monotonic(), Job(folder, kind)
        pause = chance.uniform(2.0, 9.0)
        while left > 0 and time.monotonic() - began < pause and job.processes[0].poll() is None:
            time.sleep(0.02)
        victim = chance.randrange(SIZE)
        if left > 0 and lives < 4 and job.processes[victim].poll() is None:
            os.kill(job.processes[victim].pid, signal.SIGKILL)
            killed = time.monotonic()
            left, lives, report.kills = left - 1, lives + 1, report.kills + 1
            if job.wait(BOUND_S):
                report.survivors_ended += 1
                report.longest_end_s = max(report.longest_end_s, time.monotonic() - killed)
            else:
                report.problems.append(f"{folder.name}: a survivor of kill {report.kills} did not end: {job.said()}")
            continue
        if not job.wait(BOUND_S * 2) or not job.is_well:
            report.problems.append(f"{folder.name}: the restarted job did not end well: {job.said()}")
        break
    report.rounds += 1
    if job.is_well and end_of(folder) != expected:
        report.problems.append(f"{folder.name}: other weights than those of the uninterrupted job after {lives} kills")
    for bundle in Shelf(folder / "ckpt", own=False).bundles():
        verify_bundle(bundle.path)
        report.bundles += 1
    ledger = Ledger.open(folder / "ckpt" / "ledger.db")
    if not ledger.verify().ok:
        report.problems.append(f"{folder.name}: the ledger's chain is broken")
    ledger.close()


def main() -> int:
    """Run the soak; exit code 1 when something was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    report, chance, began = Report(), random.Random(given.seed), time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        home, expected = Path(place), {}
        for kind in KINDS:
            whole = Path(tempfile.mkdtemp(dir=home, prefix=f"whole-{kind}-"))
            job = Job(whole, kind)
            if not job.wait(BOUND_S * 2) or not job.is_well:
                print(f"the uninterrupted {kind} job failed: {job.said()}", file=sys.stderr)
                return 1
            expected[kind] = end_of(whole)
        number = 0
        while report.kills < given.kills:
            kind = KINDS[number % len(KINDS)]
            one_round(kind, home, expected[kind], chance, given.kills - report.kills, report)
            number += 1
    report.seconds = round(time.monotonic() - began, 1)
    if given.json:
        print(json.dumps(asdict(report)))
    else:
        for name, value in asdict(report).items():
            print(f"{name:16} {value}")
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
