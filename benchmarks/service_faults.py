"""The HRM service when its worker is killed, stopped or starved under load: who is told what, and when it is over.

    python benchmarks/service_faults.py [--bundle runs/step-00001200] [--seconds 45] [--guarded]

Half of the measured capacity, open loop; the fault comes after a third. Every request must be answered or refused with
a reason. Recovered is the first moment after the harm from which p95 over three seconds is under 1.3 × what it was
before the fault, with nobody refused. Without --guarded no guard is there: a stopped worker is ended by the service's
own watchdog after 10 s, and hogs, which stay for a third of the load, are borne until they go.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from service_bench import PATH, Feed, Told, bundle_for, hog, make_pool, service, worker_of

RECOVERY_S, TIMES = 30.0, 1.3
_WINDOW_S = 3.0


def recovery_s(told: Told, at_s: float) -> float | None:
    """Seconds from the fault until latency is back; ``None`` where it does not come back, 0 where it never left."""
    before = told.latency_ms[told.due < at_s]
    bound = TIMES * float(np.quantile(before, 0.95))
    was_harmed = False
    for start in np.arange(at_s, told.due.max() - _WINDOW_S, _WINDOW_S / 8):
        inside = (told.due >= start) & (told.due < start + _WINDOW_S)
        is_well = (told.status[inside] == 200).all() and np.quantile(told.latency_ms[inside], 0.95) <= bound
        if is_well and was_harmed:
            return float(start) - at_s
        was_harmed = was_harmed or not is_well
    return None if was_harmed else 0.0


@contextlib.contextmanager
def hogs(count: int, seconds: float) -> Iterator[None]:
    """Several processes that want a core each, for so long."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(hog())
        time.sleep(seconds)
        yield


def strike(name: str, pid: int, seconds: float) -> Callable[[], None]:
    """What is done to the worker of the service ``pid``."""

    def starve() -> None:
        with hogs(4, seconds / 3):
            pass

    return {
        "killed": lambda: os.kill(worker_of(pid), signal.SIGKILL),
        "stopped": lambda: os.kill(worker_of(pid), signal.SIGSTOP),
        "starved by 4 hogs": starve,
    }[name]


def one(feed: Feed, port: int, name: str, act: Callable[[], None], load: tuple[float, float]) -> Told:
    """One fault, a third into the load."""
    rate, seconds = load
    timer = threading.Timer(seconds / 3, act)
    running = feed.start(port, int(rate * seconds), rate=rate, seed=5)
    timer.start()
    told = running.result()
    timer.join()
    back = recovery_s(told, seconds / 3)
    says = "not back" if back is None else f"back after {back:.1f} s"
    before = told.latency_ms[told.due < seconds / 3]
    quantiles = f"p95 before {np.quantile(before, 0.95):.1f} ms, over all {told.quantile(0.95):.1f} ms"
    counted = f"{len(told.status):6d} asked, {told.statuses()}, wrong {told.wrong}, lost {told.lost}"
    counted += f", at less depth {told.shallower}" if told.shallower else ""
    print(f"{name:20s} {counted}; {quantiles}; {says}", flush=True)
    return told


def run(bundle: Path, seconds: float, options: list[str]) -> list[str]:
    """Each fault on a service of its own; returns the bounds that were missed."""
    feed, missed = Feed(make_pool(bundle, 12_000)), []
    for name in ("killed", "stopped", "starved by 4 hogs"):
        with service(bundle, *options) as (port, pid):
            feed.run(port, 500, PATH, closed=64)
            rate = feed.run(port, 1500, PATH, closed=64).per_s / 2
            told = one(feed, port, name, strike(name, pid, seconds), (rate, seconds))
        if told.lost or told.wrong:
            missed.append(f"{name}: {told.lost} lost, {told.wrong} wrong")
        back = recovery_s(told, seconds / 3)
        if back is None or back > RECOVERY_S:
            missed.append(f"{name}: not back within {RECOVERY_S:g} s")
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description="the HRM service with its worker killed, stopped and starved")
    parser.add_argument("--bundle", type=Path, help="a served bundle; without it one is trained")
    parser.add_argument("--seconds", type=float, default=45.0, help="of load for each fault")
    parser.add_argument("--guarded", action="store_true", help="leave the service its guard")
    arguments = parser.parse_args()
    options = [] if arguments.guarded else ["--no-guard"]
    with tempfile.TemporaryDirectory() as folder:
        missed = run(bundle_for(arguments.bundle, Path(folder)), arguments.seconds, options)
    print("bounds: " + ("; ".join(missed) if missed else "all held"))
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
