"""What the benchmarks of the service share: a trained bundle, puzzles with the model's own answers, what came of them.

Not run by itself; see ``service_load.py`` and ``service_faults.py``.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hrm_sudoku import DATA, Setting, train
from premortem.stages.serve.reasoner import Reasoner
from premortem.stages.train.hrm import HRM, sudoku_config, sudoku_recipe
from premortem.stages.train.hrm.card import read_card, save_model
from premortem.stages.train.sudoku import make_split
from service_loadgen import Plan
from service_processes import HERE

PATH = "/v1/solve/sudoku"
_TIE = 1e-3
"""Logits that are closer than this change their order with the size of the batch: either is the model's answer."""


def bundle_for(given: Path | None, folder: Path) -> Path:
    """The bundle that was given, or a 4×4 Sudoku model trained now, by the recipe (minutes)."""
    if given is not None:
        return given
    print("no --bundle: training one, some minutes", file=sys.stderr, flush=True)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    setting = Setting(4, sudoku_config(4), sudoku_recipe(4), DATA[4], "cpu", 12.0, 0)
    split, model = make_split(replace(setting.data, seed=0)), HRM(setting.config)
    trained = train(model, setting, split, 0, math.inf)
    with trained.ema.swapped_in(model):
        return save_model(folder, trained.steps, model, task="sudoku", size=4)


@dataclass(frozen=True)
class Pool:
    """Distinct puzzles as bodies, and what the undisturbed model answers to each (several where two are close)."""

    puzzles: list[bytes]
    bodies: list[str]
    right: list[set[bytes]]
    depth: int
    """Segments that the model may run."""


def make_pool(bundle: Path, count: int, seed: int = 0) -> Pool:
    """``count`` distinct puzzles; the answers come from the model called directly, in batches of 256."""
    split = make_split(replace(DATA[4], seed=seed))
    stream, step = split.batches(512, seed), 0
    puzzles: dict[bytes, None] = {}
    while len(puzzles) < count:
        rows, _ = stream.batch(step)
        puzzles.update(dict.fromkeys(row.astype(np.uint8).tobytes() for row in rows))
        step += 1
    chosen = list(puzzles)[:count]
    reasoner = Reasoner(bundle, read_card(bundle).config)
    most, right = reasoner.config.halting.max_segments, []
    for at in range(0, count, 256):
        some = chosen[at : at + 256]
        thoughts = reasoner.think(torch.tensor([list(p) for p in some]), [most] * len(some), [None] * len(some))
        right += [_answers(thought.logits) for thought in thoughts]
    return Pool(chosen, [json.dumps({"puzzle": list(p), "timeout_ms": 2000}) for p in chosen], right, most)


def _answers(logits_CV: torch.Tensor) -> set[bytes]:
    """The likeliest tokens; with one close second, that too."""
    best, second = logits_CV.topk(2, -1).values.unbind(-1)
    tokens = logits_CV.argmax(-1)
    told = {bytes(tokens.tolist())}
    for cell in ((best - second) < _TIE).nonzero()[:, 0].tolist():
        other = tokens.clone()
        other[cell] = logits_CV[cell].topk(2).indices[1]
        told.add(bytes(other.tolist()))
    return told


@dataclass(frozen=True)
class Told:
    """What came of one plan."""

    began: float
    """When the generator started, by ``time.monotonic``; all else counts from then."""
    seconds: float
    """From the first request due to the last reply."""
    due: np.ndarray
    latency_ms: np.ndarray
    """Of every request, counted from when it was due."""
    status: np.ndarray
    loads: set[int]
    """Which starts of the worker answered."""
    wrong: int | None
    """Answers at full depth that the model called directly does not give; None where nobody checked them."""
    cached: int
    """Answers that were remembered, and not computed."""
    shallower: int
    """Answers at less than full depth, as the replies say: a guard had turned the depth down."""
    invalid: int
    """Answers, the model's own, that break the rules: its misses, not the service's."""
    lost: int
    """Requests without any reply."""
    late_ms: float

    @property
    def answered(self) -> int:
        return int((self.status == 200).sum())

    @property
    def per_s(self) -> float:
        return self.answered / self.seconds

    def quantile(self, share: float) -> float:
        """Milliseconds, over the answered ones."""
        answered = self.latency_ms[self.status == 200]
        return float(np.quantile(answered, share)) if len(answered) else math.nan

    def statuses(self) -> dict[int, int]:
        return dict(sorted(Counter(self.status.tolist()).items()))

    def row(self, name: str) -> str:
        quantiles = " ".join(f"{self.quantile(share):8.1f}" for share in (0.5, 0.95, 0.99))
        return (
            f"{name:38s} {len(self.status):6d} {self.answered:6d} {self.per_s:7.1f} {quantiles} "
            f"{'-' if self.wrong is None else self.wrong:>5} "
            f"{self.lost:4d}  {self.statuses()} (generator late by {self.late_ms:.0f} ms at most)"
        )


HEADER = (
    f"{'':38s} {'asked':>6s} {'200':>6s} {'200/s':>7s} {'p50':>8s} {'p95':>8s} {'p99':>8s} {'wrong':>5s} {'lost':>4s}"
)


class Feed:
    """Hands out the pool's puzzles round and round: the service's cache has forgotten one when it comes again."""

    def __init__(self, pool: Pool) -> None:
        self._pool, self._at = pool, 0

    def take(self, count: int) -> list[int]:
        """Indices of the next puzzles."""
        taken = [(self._at + k) % len(self._pool.bodies) for k in range(count)]
        self._at += count
        return taken

    def start(self, port: int, count: int, path: str = PATH, **how: Any) -> Running:
        """Begin a plan in a process of its own."""
        indices = self.take(count)
        plan = Plan(port, path, [self._pool.bodies[i] for i in indices], **how)
        return Running(plan, indices, self._pool, is_checked=path == PATH)

    def run(self, port: int, count: int, path: str = PATH, **how: Any) -> Told:
        """Carry a plan out."""
        return self.start(port, count, path, **how).result()


class Running:
    """A load generator at work."""

    def __init__(self, plan: Plan, indices: list[int], pool: Pool, *, is_checked: bool) -> None:
        self._indices, self._pool, self._is_checked = indices, pool, is_checked
        words = [sys.executable, str(HERE / "service_loadgen.py")]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(plan.__dict__).encode())
        self._process.stdin.close()

    def result(self) -> Told:
        """Wait for it, and check every answer."""
        assert self._process.stdout is not None
        outcome = json.loads(self._process.stdout.read())
        if self._process.wait() != 0:
            raise SystemExit("the load generator failed")
        due, done, status = (np.array(outcome[name]) for name in ("due", "done", "status"))
        loads, wrong, cached, shallower, invalid = set(), 0, 0, 0, 0
        for index, code, text in zip(self._indices, outcome["status"], outcome["replies"], strict=True):
            if code != 200 or not self._is_checked:
                continue
            reply = json.loads(text)
            loads.add(reply["load"])
            cached += reply["cached"]
            is_shallower = reply["depth"] < self._pool.depth
            shallower += is_shallower
            wrong += not is_shallower and bytes(reply["solution"]) not in self._pool.right[index]
            invalid += not reply["valid"]
        lost = int((status == 0).sum())
        seconds = float(done.max() - due.min())
        latency = np.where(status == 0, np.inf, (done - due) * 1e3)
        return Told(
            began=outcome["began"], seconds=seconds, due=due, latency_ms=latency, status=status, loads=loads,
            wrong=wrong if self._is_checked else None, cached=cached, shallower=shallower, invalid=invalid, lost=lost,
            late_ms=outcome["late_ms"],
        )  # fmt: skip
