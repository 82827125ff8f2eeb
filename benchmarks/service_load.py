"""The HRM service under load: latency at half of its capacity, goodput beyond it, and what it adds to the model.

    python benchmarks/service_load.py [--bundle runs/step-00001200] [--requests 10000]

Real processes: ``premortem infer``, a load generator that does not slow down when the service does, a CPU hog. Every
answer is held against what the model says when called directly; one from the cache is a bound missed. No guard is
there: this is the service alone. Exit code 1 when a bound is missed.

Warm: either service first answers 1,000 puzzles of 64 clients, and the model that is called directly 50; they do not
count. Not warm: the worker of the renewal, which has seen its canary puzzles alone; and each row is a new generator
with new connections, whose opening counts. Beside it, for a floor, a bare FastAPI service with a small net: same
warm-up, generator, pool of puzzles, schedule and number of requests. It is spared the renewal, and nobody checks its
answers.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch

from premortem.stages.serve.reasoner import Reasoner
from premortem.stages.serve.service.frames import Puzzle
from premortem.stages.serve.service.lane import Lane
from premortem.stages.train.hrm.card import read_card
from service_bench import HEADER, PATH, Feed, Pool, Told, bundle_for, make_pool
from service_processes import bare, hog, service

P95_MS, OVERHEAD_MS, GOODPUT = 50.0, 2.0, 0.9
_CLIENTS = 64
_WARM, _WARM_DIRECT = 1000, 50
_POOL = 12_000


def overhead_ms(bundle: Path, pool: Pool, port: int, count: int = 300) -> tuple[float, float, float]:
    """Medians of: one request at a time, the same puzzle straight to the model, and the difference of each pair."""
    torch.set_num_threads(1)
    card = read_card(bundle)
    lane, line = Lane(Reasoner(bundle, card.config), 16), socket.create_connection(("127.0.0.1", port))
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    head = f"POST {PATH} HTTP/1.1\r\nHost: bench\r\nContent-Length: "
    direct, asked = [], []

    def think(number: int, puzzle: bytes) -> float:
        began = time.perf_counter()
        lane.put(Puzzle(number, card.task, puzzle, card.config.halting.max_segments))
        while not lane.step():
            pass
        return (time.perf_counter() - began) * 1e3

    for number in range(_WARM_DIRECT):
        think(number, pool.puzzles[number])
    pairs = zip(pool.puzzles[-count:], pool.bodies[-count:], strict=True)
    for number, (puzzle, body) in enumerate(pairs, _WARM_DIRECT):
        direct.append(think(number, puzzle))
        request = f"{head}{len(body)}\r\n\r\n{body}".encode()
        began = time.perf_counter()
        line.sendall(request)
        reply = line.recv(1 << 16)
        while b"}}}" not in reply:  # the end of the scores is the end of the reply
            if not (more := line.recv(1 << 16)):
                break
            reply += more
        asked.append((time.perf_counter() - began) * 1e3)
        if b" 200 OK" not in reply or b'"cached":false' not in reply:
            raise SystemExit(f"one request at a time: {reply!r}, expected an answer that was computed")
    line.close()
    added = [a - d for a, d in zip(asked, direct, strict=True)]
    return statistics.median(asked), statistics.median(direct), statistics.median(added)


def with_hog_and_renewal(feed: Feed, port: int, pid: int, count: int, rate: float) -> Told:
    """A hog throughout, and the worker renewed a tenth of the way in."""
    with hog():
        timer = threading.Timer(count / rate / 10, os.kill, (pid, signal.SIGHUP))
        timer.start()
        try:
            return feed.run(port, count, rate=rate, seed=2)
        finally:
            timer.cancel()


def run(bundle: Path, count: int) -> list[str]:
    """Print every row; returns the bounds that were missed."""
    pool = make_pool(bundle, _POOL)
    feed, missed = Feed(pool), []
    print(HEADER, flush=True)

    def show(name: str, told: Told) -> Told:
        print(told.row(name), flush=True)
        return told

    with service(bundle, "--no-guard") as (port, pid):
        feed.run(port, _WARM, closed=_CLIENTS)
        before, direct, added = overhead_ms(bundle, pool, port)
        capacity = show(f"capacity, {_CLIENTS} clients", feed.run(port, 4000, closed=_CLIENTS)).per_s
        half = show("half of it", feed.run(port, count, rate=capacity / 2, seed=1))
        hogged = show("half, a CPU hog, one renewal", with_hog_and_renewal(feed, port, pid, count, capacity / 2))
        over = show("twice the capacity", feed.run(port, int(30 * capacity), rate=2 * capacity, seed=3))
    with bare() as port:
        feed.run(port, _WARM, "/solve", closed=_CLIENTS)
        show("bare: capacity", feed.run(port, 4000, "/solve", closed=_CLIENTS))
        show("bare: at the rate of half", feed.run(port, count, "/solve", rate=capacity / 2, seed=1))
        with hog():
            show("bare: and a CPU hog", feed.run(port, count, "/solve", rate=capacity / 2, seed=2))
    print(f"one at a time: {before:.2f} ms, straight to the model {direct:.2f} ms, difference {added:.2f} ms (medians)")
    print(f"goodput at twice the capacity: {over.per_s / capacity:.0%}; the model's own misses: "
          f"{half.invalid + hogged.invalid} of {half.answered + hogged.answered} answers")  # fmt: skip
    for name, told in (("half", half), ("half with a hog", hogged)):
        if not told.quantile(0.95) < P95_MS:
            missed.append(f"{name}: p95 {told.quantile(0.95):.1f} ms, bound {P95_MS:g}")
        if told.answered < len(told.status):
            missed.append(f"{name}: {len(told.status) - told.answered} requests not answered")
    for name, told in (("half", half), ("half with a hog", hogged), ("twice", over)):
        if told.wrong or told.lost or told.cached:
            missed.append(f"{name}: {told.wrong} wrong, {told.lost} lost and {told.cached} remembered answers")
    if len(hogged.loads) < 2:
        missed.append("the renewed worker was not warm before the load was over")
    if over.per_s < GOODPUT * capacity:
        missed.append(f"goodput {over.per_s / capacity:.0%} at twice the capacity, bound {GOODPUT:.0%}")
    if added > OVERHEAD_MS:
        missed.append(f"overhead {added:.2f} ms at the median, bound {OVERHEAD_MS:g}")
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description="the HRM service under load")
    parser.add_argument("--bundle", type=Path, help="a served bundle; without it one is trained")
    parser.add_argument("--requests", type=int, default=10_000, help="at half of the capacity, each time")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        missed = run(bundle_for(arguments.bundle, Path(folder)), arguments.requests)
    print("bounds: " + ("; ".join(missed) if missed else "all held"))
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
