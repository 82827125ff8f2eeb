"""How long a replay of a long log takes, reading included, with the default set of detectors.

    python benchmarks/replay_speed.py [--steps N] [--json]

Bound: a CSV of 1 million steps (loss, grad_norm, lr, time) in 10 s on two noisy cores. Beside wall time stands the
processor's own time, which neighbours disturb less; beside the whole stand its parts: reading alone, and the kernel
alone on rows in memory. Three logs: healthy; one in which a NaN comes every 5,000 steps; one that diverges at its
half and stays so (an open hand-over is the kernel's slow path). Public curves, where they are at hand, show whether a
real log is read as it is; else "not run".
"""

from __future__ import annotations

import argparse
import json
import math
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from premortem.run.replay.columns import resolve
from premortem.run.replay.replay import Replayed, replay
from premortem.run.replay.source import opened
from traces import data_folder

BOUND_S = 10.0


def write_log(path: Path, steps: int, ill: Callable[[int], float]) -> Path:
    """Step, loss, gradient norm, learning rate and time; the loss is the healthy one times ``ill(step)``."""
    draw = random.Random(0)
    with path.open("w", encoding="utf-8") as stream:
        stream.write("step,loss,grad_norm,lr,time\n")
        for i in range(steps):
            loss = (1.5 + 8.0 * (i + 5) ** -0.5) * math.exp(draw.gauss(0.0, 0.03)) * ill(i)
            norm = 0.2 + abs(draw.gauss(1.0, 0.1))
            stream.write(f"{i},{loss:.6f},{norm:.6f},{3e-4 * (1 - i / steps):.6e},{0.25 * i:.2f}\n")
    return path


def reading(path: Path) -> None:
    """Every row, and nothing done with it."""
    with opened(path) as log:
        columns = resolve(log.names, {}, ["loss", "grad_norm"])
        for _ in log.rows(columns, {"loss": 0, "grad_norm": 1}):
            pass


def timed(act: Callable[[], object]) -> tuple[float, float, object]:
    """Wall seconds, the process's own seconds, and what came of it."""
    began, own = time.perf_counter(), time.process_time()
    result = act()
    return time.perf_counter() - began, time.process_time() - own, result


def measure(steps: int) -> list[dict[str, object]]:
    """One row a log."""
    logs: dict[str, Callable[[int], float]] = {
        "healthy": lambda i: 1.0,
        "a NaN every 5,000 steps": lambda i: math.nan if i % 5000 == 4999 else 1.0,
        "diverges at its half": lambda i: 3.0 if i >= steps // 2 else 1.0,
    }
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="premortem-replay-") as folder:
        for name, ill in logs.items():
            path = write_log(Path(folder) / "log.csv", steps, ill)
            _, read_cpu, _ = timed(lambda path=path: reading(path))
            wall, cpu, found = timed(lambda path=path: replay(path))
            assert isinstance(found, Replayed)
            rows.append({
                "log": name, "steps": found.walk.num_rows, "wall_s": round(wall, 2), "cpu_s": round(cpu, 2),
                "reading_cpu_s": round(read_cpu, 2), "incidents": found.heard.num_incidents,
                "first": found.heard.alarms[0].step if found.heard.alarms else None,
                "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            })  # fmt: skip
    return rows


def real() -> dict[str, object]:
    """Public curves as they lie: healthy per-step losses, and grokking runs of which some collapse."""
    found: dict[str, object] = {}
    traces = data_folder("training_traces")
    if traces is None:
        found["modded-nanogpt curves"] = "not run: the data is missing"
    else:
        log = replay(traces / "modded_nanogpt_train_curves.csv.gz")
        found["modded-nanogpt curves"] = (
            f"{log.num_runs} runs, {log.walk.num_rows} steps, {log.heard.num_incidents} incidents"
        )
    grokking = data_folder("grokking_collapse")
    if grokking is None:
        found["grokking curves"] = "not run: the data is missing"
    else:
        log = replay(grokking / "curves.csv.gz")
        found["grokking curves"] = (
            f"{log.num_runs} runs, {log.walk.num_rows} points, {log.heard.num_incidents} incidents, "
            f"not read: {', '.join(log.columns.unread)}"
        )
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 0 when the bound holds for the healthy log, by the process's own time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    rows = measure(given.steps)
    public = real()
    bound = BOUND_S * given.steps / 1e6
    within = all(float(str(row["cpu_s"])) <= bound for row in rows)
    if given.json:
        print(json.dumps({"rows": rows, "public": public, "bound_s": bound, "within": within}, indent=1))
    else:
        print("| log | steps | wall s | CPU s | of it reading | incidents | first at | peak MiB |")
        print("|---|---|---|---|---|---|---|---|")
        for row in rows:
            print("| " + " | ".join(str(value) for value in row.values()) + " |")
        for name, told in public.items():
            print(f"{name}: {told}")
        print(f"bound {bound:g} s: {'kept' if within else 'BROKEN'}, by the process's own time")
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
