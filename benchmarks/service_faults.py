"""The HRM service when its worker is killed, stopped or starved under load: who is told what, and when it is over.

    python benchmarks/service_faults.py [--bundle runs/step-00001200] [--seconds 54] [--guarded]

Half of the measured capacity, open loop; the fault comes after a third. Every request must be answered or refused with
a reason. A window of three seconds is bad when p95 of its answers is over 1.3 × what it was before the fault, or over
1 % of its requests got none. Recovered is the end of the *last* bad window: a lull meanwhile is none, and a machine
that disturbs the end of the load counts against us. How many windows were bad before the fault is printed beside it.
Without --guarded no guard is there: a stopped worker is ended by the service's own watchdog after 10 s, and hogs, which
stay for a third of the load, are borne until they go.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service_bench import PATH, Feed, Told, bundle_for, make_pool
from service_processes import hog, service, worker_of

RECOVERY_S, TIMES = 30.0, 1.3
_WINDOW_S, _STEP_S = 3.0, 0.375
_UNANSWERED = 0.01
_MARGIN_S = 2.0
"""What a client allows for an answer: a request that was due so long before the fault was settled when it came."""
_LEAST_S = 3 * (_MARGIN_S + 2 * _WINDOW_S)


@dataclass(frozen=True)
class Recovery:
    """What the windows of one run say."""

    p95_ms: float
    """Of the answers to requests that were settled before the fault."""
    bad_before: float
    """Share of the windows before the fault that are bad by the same rule: what the machine does by itself."""
    seconds: float | None
    """From the fault to the end of the last bad window; 0 where none is bad, None where no good one follows."""


def recovery(told: Told, at_s: float) -> Recovery:
    """``at_s``: when the fault came, in seconds of the generator's clock."""
    calm_s, end_s = at_s - _MARGIN_S, float(told.due.max())
    before = told.latency_ms[(told.due < calm_s) & (told.status == 200)]
    if not len(before):
        raise SystemExit(f"no request was answered in the {calm_s:.1f} s before the fault; give more --seconds")
    p95_ms = float(np.quantile(before, 0.95))

    def bad(begin: float, end: float) -> list[bool]:
        starts = np.arange(begin, end - _WINDOW_S, _STEP_S)
        return [is_bad(told, float(start), TIMES * p95_ms) for start in starts]

    after = bad(at_s, end_s)
    last = max((number for number, is_one in enumerate(after) if is_one), default=-1)
    seconds = last * _STEP_S + _WINDOW_S if last >= 0 else 0.0
    is_back = at_s + seconds + _WINDOW_S <= end_s  # a good window that shares nothing with the last bad one
    return Recovery(p95_ms, float(np.mean(bad(0.0, calm_s))), seconds if is_back else None)


def is_bad(told: Told, start: float, bound_ms: float) -> bool:
    """Of the requests that were due in the three seconds: too many without an answer, or the answers too late."""
    inside = (told.due >= start) & (told.due < start + _WINDOW_S)
    answered = inside & (told.status == 200)
    if answered.sum() < (1 - _UNANSWERED) * inside.sum() or not answered.any():
        return True
    return bool(np.quantile(told.latency_ms[answered], 0.95) > bound_ms)


def strike(name: str, pid: int, seconds: float) -> Callable[[], None]:
    """What is done to the worker of the service ``pid``."""

    def starve() -> None:
        with contextlib.ExitStack() as stack:
            for _ in range(4):
                stack.enter_context(hog())
            time.sleep(seconds / 3)

    return {
        "killed": lambda: os.kill(worker_of(pid), signal.SIGKILL),
        "stopped": lambda: os.kill(worker_of(pid), signal.SIGSTOP),
        "starved by 4 hogs": starve,
    }[name]


def one(feed: Feed, port: int, act: Callable[[], None], load: tuple[float, float]) -> tuple[Told, Recovery]:
    """One fault, a third into the load."""
    rate, seconds = load
    running = feed.start(port, int(rate * seconds), rate=rate, seed=5)
    time.sleep(seconds / 3)
    struck = time.monotonic()
    act()
    told = running.result()
    return told, recovery(told, struck - told.began)


def row(name: str, told: Told, back: Recovery) -> str:
    says = "not back" if back.seconds is None else f"back after {back.seconds:.1f} s"
    quantiles = f"p95 before {back.p95_ms:.1f} ms, over all {told.quantile(0.95):.1f} ms"
    counted = f"{len(told.status):6d} asked, {told.statuses()}, wrong {told.wrong}, lost {told.lost}"
    counted += f", at less depth {told.shallower}" if told.shallower else ""
    return f"{name:20s} {counted}; {quantiles}; {says} ({back.bad_before:.0%} of the windows before it were bad)"


def missed_by(name: str, told: Told, back: Recovery) -> list[str]:
    """The bounds that were missed."""
    missed = []
    if told.lost or told.wrong:
        missed.append(f"{name}: {told.lost} lost, {told.wrong} wrong")
    if name != "starved by 4 hogs" and len(told.loads) < 2:
        missed.append(f"{name}: no other worker answered")
    if back.seconds is None:
        missed.append(f"{name}: not back when the load was over")
    elif back.seconds > RECOVERY_S:
        missed.append(f"{name}: back after {back.seconds:.1f} s, bound {RECOVERY_S:g}")
    return missed


def run(bundle: Path, seconds: float, options: list[str]) -> list[str]:
    """Each fault on a service of its own; returns the bounds that were missed."""
    feed, missed = Feed(make_pool(bundle, 12_000)), []
    for name in ("killed", "stopped", "starved by 4 hogs"):
        with service(bundle, *options) as (port, pid):
            feed.run(port, 500, PATH, closed=64)  # warms it up
            rate = feed.run(port, 1500, PATH, closed=64).per_s / 2
            told, back = one(feed, port, strike(name, pid, seconds), (rate, seconds))
        print(row(name, told, back), flush=True)
        missed += missed_by(name, told, back)
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description="the HRM service with its worker killed, stopped and starved")
    parser.add_argument("--bundle", type=Path, help="a served bundle; without it one is trained")
    parser.add_argument("--seconds", type=float, default=54.0, help="of load for each fault")
    parser.add_argument("--guarded", action="store_true", help="leave the service its guard")
    arguments = parser.parse_args()
    if arguments.seconds < _LEAST_S:
        parser.error(f"--seconds {arguments.seconds:g}: expected at least {_LEAST_S:g}; a third is before the fault")
    options = [] if arguments.guarded else ["--no-guard"]
    with tempfile.TemporaryDirectory() as folder:
        missed = run(bundle_for(arguments.bundle, Path(folder)), arguments.seconds, options)
    print("bounds: " + ("; ".join(missed) if missed else "all held"))
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
