"""What the guard costs a step.

    python benchmarks/engine_cost.py [--json]

Part 1: the engine alone, one observation of 10 signals by 20 real detectors of the shelf on a healthy run; the
median over repeated timings. Budget: 12 µs on the CPU.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence

from premortem.core.detector import Detector
from premortem.core.engine import Engine
from premortem.core.plan import BoundEntry, BoundWatch, Plan
from premortem.core.risk import Watch
from premortem.core.signal import Signal
from premortem.parts.detectors import NonFinite, RatioToBest, Rising, Shift, Spike, Streak, Threshold

BUDGET_US = 12.0
_REPEATS = 31
_STEPS = 2000

SIGNALS = (
    Signal("loss", "nats", banded=True), Signal("grad_norm", banded=True), Signal("lr_factor"), Signal("max_norm"),
    Signal("skipped"), Signal("nonfinite_weights"), Signal("weight_change"), Signal("step_time", "s"),
    Signal("free_space", "GiB", higher_is_worse=False), Signal("failed_saves"),
)  # fmt: skip
DETECTORS: tuple[tuple[int, Callable[[], Detector]], ...] = (
    (0, NonFinite), (0, RatioToBest), (0, Shift), (0, lambda: Rising(slope=0.01, window=100)), (0, Spike),
    (1, NonFinite), (1, lambda: Shift(floor=0.1)), (1, lambda: Spike(yellow=8.0)), (1, RatioToBest),
    (2, lambda: Threshold(red=10.0)), (3, lambda: Threshold(red=1e6)), (4, Streak), (4, lambda: Threshold(red=2.0)),
    (5, lambda: Threshold(critical=0.5)), (6, lambda: Threshold(red=1e6)), (7, Shift), (7, Spike),
    (8, lambda: Threshold(red=2.0, critical=0.5, below=1.0)), (8, NonFinite), (9, lambda: Threshold(critical=0.5)),
)  # fmt: skip


def plan() -> Plan:
    """10 signals, 20 detectors, one entry."""
    watches = tuple(
        BoundWatch("E", "bench", Watch(f"{i}", SIGNALS[slot].name, "s", make, required=False), slot)
        for i, (slot, make) in enumerate(DETECTORS)
    )
    return Plan(SIGNALS, watches, {"E": BoundEntry("E", ())}, {"learning_rate": 1.0})


def healthy_rows(count: int, seed: int = 0) -> list[list[float | None]]:
    """Rows of a healthy run: noisy loss and gradient norm, constants elsewhere; shape (count, 10)."""
    draw = random.Random(seed)
    rows: list[list[float | None]] = []
    for step in range(count):
        loss = 2.0 + 2.0 / (1.0 + step / 500) + draw.gauss(0.0, 0.05)
        norm = abs(draw.gauss(1.0, 0.1)) + 0.2
        rows.append([loss, norm, 1.0, 1.0, 0.0, 0.0, 0.01 + draw.random(), 0.1 + 0.01 * draw.random(), 50.0, 0.0])
    return rows


def cost_us(repeats: int = _REPEATS, steps: int = _STEPS) -> tuple[list[float], int]:
    """Microseconds an observation, one figure a repeat, each after a warm-up of 500 steps; and how many repeats
    were set aside because a detector gave a false alarm, which an incident would have made dearer."""
    found, set_aside = [], 0
    for repeat in range(repeats):
        engine = Engine(plan())
        rows = healthy_rows(500 + steps, seed=repeat)
        for tick, row in enumerate(rows[:500]):
            engine.observe(row, tick, tick * 0.1)
        began = time.perf_counter()
        for tick, row in enumerate(rows[500:], start=500):
            engine.observe(row, tick, tick * 0.1)
        spent = (time.perf_counter() - began) / steps * 1e6
        if engine.incidents:
            set_aside += 1
        else:
            found.append(spent)
    return found, set_aside


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 0 when the budget holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    costs, set_aside = cost_us()
    median = statistics.median(costs)
    figures = {
        "signals": len(SIGNALS), "detectors": len(DETECTORS), "median_us": round(median, 2),
        "best_us": round(min(costs), 2), "worst_us": round(max(costs), 2), "budget_us": BUDGET_US,
        "set_aside": set_aside, "within": median <= BUDGET_US,
    }  # fmt: skip
    if given.json:
        print(json.dumps({"engine": figures}, indent=1))
    else:
        print(f"engine: {median:.2f} µs an observation, {len(SIGNALS)} signals, {len(DETECTORS)} detectors")
        print(f"  median of {len(costs)} timings of {_STEPS} steps; {min(costs):.2f} to {max(costs):.2f}")
        print(f"  {set_aside} timings set aside for a false alarm")
        print(f"  budget {BUDGET_US:g} µs: {'kept' if median <= BUDGET_US else 'BROKEN'}")
    return 0 if median <= BUDGET_US else 1


if __name__ == "__main__":
    sys.exit(main())
