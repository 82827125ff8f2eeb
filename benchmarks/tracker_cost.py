"""What a tracker that hangs for a whole run costs a training step, and what it has in the end.

The same small language model is trained twice in one process, step by step in pairs of random order: without a
tracker, and with premortem's tracker on a real mlflow server behind a proxy that takes connections and never answers.
Ratios of step times, logging included, with a 95 % bootstrap interval of the median over the pairs; and the same of
the processor time of the training's thread, which a busy machine disturbs less. Afterwards the
proxy passes again, the spool is synced, and the server's database is counted: each record once.

Beside it, the plain clients on the same hanging address: seconds of each mlflow call (its patience of 120 s and its
seven retries cut to 2 s and none), and what wandb's client does before the first step (its 90 s cut to 10 s).

    python benchmarks/tracker_cost.py --pairs 800 --json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from premortem.faults.network import BadNetwork, TcpProxy
from premortem.risks.train.tracker_offline.server import MlflowServer
from premortem.stages import tracking
from premortem.stages.tracking.sync import sync
from premortem.stages.train.trainable import small_language_model

BOUND = 1.01
Log = Callable[[dict[str, float], int], None]


class Took(NamedTuple):
    """Seconds by the wall and by the thread's processor."""

    wall: float
    cpu: float


class Side:
    """One copy of the run."""

    def __init__(self, log: Log | None) -> None:
        self.run = small_language_model(0)
        self.batches: Iterator[Any] = self.run.batches()
        self.log = log
        self.count = 0

    def step(self) -> Took:
        """One step, its logging included."""
        run, batch = self.run, next(self.batches)
        began, cpu = time.perf_counter(), time.thread_time()
        loss = run.loss(run.model, batch)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(run.model.parameters(), run.max_norm)
        run.optimizer.step()
        run.optimizer.zero_grad(set_to_none=True)
        values = {"loss": float(loss.detach()), "grad_norm": float(norm)}
        if self.log is not None:
            self.log(values, self.count)
        self.count += 1
        return Took(time.perf_counter() - began, time.thread_time() - cpu)


def interval(ratios: list[float], rounds: int = 2000) -> tuple[float, float]:
    """The 95 % bootstrap interval of the median."""
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(rounds))
    return medians[round(0.025 * rounds)], medians[round(0.975 * rounds) - 1]


def compare(one: Side, other: Side, pairs: int) -> list[Took]:
    """Ratio other / one of each pair, in random order within it."""
    draw, ratios = random.Random(1), []

    def take(first: Took, second: Took) -> None:
        ratios.append(Took(second.wall / first.wall, second.cpu / first.cpu))

    for _ in range(20):
        one.step(), other.step()
    for _ in range(pairs):
        if draw.random() < 0.5:
            first = one.step()
            take(first, other.step())
        else:
            second = other.step()
            take(one.step(), second)
    return ratios


def mlflow_calls(port: int, calls: int = 3) -> list[float]:
    """Seconds of plain calls that fail; in a process of its own, for the client reads its patience once."""
    code = (
        "import sys, time\nfrom mlflow.tracking import MlflowClient\n"
        "c = MlflowClient(sys.argv[1])\n"
        f"for i in range({calls}):\n"
        "    t = time.perf_counter()\n"
        "    try: c.log_metric('0' * 32, 'loss', 1.0, step=i)\n"
        "    except Exception: pass\n"
        "    print(time.perf_counter() - t)\n"
    )
    environment = {**os.environ, "MLFLOW_HTTP_REQUEST_TIMEOUT": "2", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    told = subprocess.run(
        [sys.executable, "-c", code, f"http://127.0.0.1:{port}"], env=environment, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    return [float(line) for line in told.stdout.split()]


def wandb_start(port: int) -> str:
    """What wandb's client does on the hanging address."""
    code = (
        "import sys, time, wandb\nt = time.perf_counter()\n"
        "try:\n"
        "    wandb.init(project='p', settings=wandb.Settings(base_url=sys.argv[1], init_timeout=10, silent=True))\n"
        "    print(f'started after {time.perf_counter() - t:.1f} s')\n"
        "except Exception as e: print(f'{type(e).__name__} after {time.perf_counter() - t:.1f} s, before any step')\n"
        "sys.stdout.flush(); import os; os._exit(0)\n"
    )
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        environment = {**os.environ, "WANDB_API_KEY": "x" * 40, "WANDB_DIR": home}
        told = subprocess.run(
            [sys.executable, "-c", code, f"http://127.0.0.1:{port}"], env=environment, capture_output=True, text=True,
            check=False, timeout=120,
        )  # fmt: skip
    return (told.stdout.strip().splitlines() or ["nothing"])[-1]


def count(port: int, records: int) -> dict[str, int]:
    """Of the steps that were logged: how many the database has once, lacks, has more often."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"http://127.0.0.1:{port}")
    experiment = client.get_experiment_by_name("cost")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    there = Counter(m.step for m in client.get_metric_history(run.info.run_id, "loss"))
    return {
        "records": records,
        "once": sum(there[i] == 1 for i in range(records)),
        "missing": sum(there[i] == 0 for i in range(records)),
        "doubled": sum(there[i] > 1 for i in range(records)),
    }


def measure(pairs: int, home: Path) -> dict[str, Any]:
    """All of it; see the top of this file."""
    with MlflowServer(home) as server, TcpProxy(server.port) as proxy:
        place = {"mlflow": f"http://127.0.0.1:{proxy.port}"}
        with BadNetwork(proxy, "hang"):
            tracker = tracking.open(place, project="cost", run="r", spool=home / "spool", close_s=1.0)
            calls: list[float] = []

            def log(values: dict[str, float], step: int) -> None:
                began = time.perf_counter()
                tracker.log(values, step)
                calls.append(time.perf_counter() - began)

            plain, spooled = Side(None), Side(log)
            ratios = compare(plain, spooled, pairs)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)
                left = tracker.close()
            per_call, wandb = mlflow_calls(proxy.port), wandb_start(proxy.port)
        rows = sync(home / "spool", wait_s=120.0)
        same = all(
            torch.equal(a, b) for a, b in zip(plain.run.model.parameters(), spooled.run.model.parameters(), strict=True)
        )
        walls, cpus = [ratio.wall for ratio in ratios], [ratio.cpu for ratio in ratios]
        (low, high), cpu_interval = interval(walls), interval(cpus)
        slow = sorted(calls)[len(calls) * 99 // 100]
        return {
            "pairs": pairs, "median_ratio": statistics.median(walls), "low_95": low, "high_95": high, "bound": BOUND,
            "cpu_median_ratio": statistics.median(cpus), "cpu_95": cpu_interval,
            "log_call_us": {"median": 1e6 * statistics.median(calls), "p99": 1e6 * slow},
            "weights_identical": same, "unsent_when_the_run_ended": left, "unsent_after_sync": rows[0].unsent,
            "in_the_database": count(server.port, spooled.count), "plain_mlflow_call_s": per_call, "plain_wandb": wandb,
            "load_average": os.getloadavg()[0], "threads": torch.get_num_threads(),
        }  # fmt: skip


def main() -> int:
    """Exit code 1 where the bound is missed or a record is missing or doubled."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--pairs", type=int, default=800)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        found = measure(arguments.pairs, Path(home))
    if arguments.json:
        print(json.dumps(found, indent=1))
    else:
        for name, value in found.items():
            print(f"{name}: {value}")
    stored = found["in_the_database"]
    return int(found["high_95"] > BOUND or stored["once"] != stored["records"])


if __name__ == "__main__":
    sys.exit(main())
