"""A small training job as a script: a network with one hidden layer learns what a random one decides.

    python -m premortem.risks.train.job_killed.small_job FOLDER SEED

It keeps its workspace for as long as it runs, as allocators of training libraries do; saves after each step; goes on
from there when it is started again; ends by SIGTERM after the step; splits its batch as the settings say that are
handed down to it, which leaves the sum of the gradients what it was.
With ``idle MEGABYTES`` it holds a model and waits.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from premortem.stages.process.settings import settings

BATCH, HIDDEN, FEATURES, CLASSES = 8192, 1024, 8, 10
STEPS = 12
DATA_S = 0.05
"""Seconds that each step waits for its data, as from a disk: a job lives longer than it computes."""
RATE = 30.0


class Network:
    """Weights, and a workspace for so many examples at once."""

    def __init__(self, seed: int, at_once: int) -> None:
        draw = np.random.default_rng(seed)
        self.x = draw.standard_normal((BATCH, FEATURES), dtype=np.float32)
        self.y = (self.x @ draw.standard_normal((FEATURES, CLASSES), dtype=np.float32)).argmax(1)
        self.w = draw.standard_normal((FEATURES, HIDDEN), dtype=np.float32) / np.float32(FEATURES**0.5)
        self.v = np.zeros((HIDDEN, CLASSES), np.float32)
        self.at_once = at_once
        self.hidden = np.ones((at_once, HIDDEN), np.float32)
        self.back = np.ones((at_once, HIDDEN), np.float32)
        self.mask = np.ones((at_once, HIDDEN), np.bool_)

    def part(self, at: int) -> tuple[float, np.ndarray, np.ndarray]:
        """Sum of the losses of a part of the batch, and its share of both gradients."""
        x, y = self.x[at : at + self.at_once], self.y[at : at + self.at_once]
        rows = np.arange(len(y))
        np.matmul(x, self.w, out=self.hidden)
        np.maximum(self.hidden, 0, out=self.hidden)
        z = self.hidden @ self.v / np.float32(HIDDEN**0.5)
        p = np.exp(z - z.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        loss = float(-np.log(p[rows, y]).sum())
        p[rows, y] -= 1
        p /= np.float32(BATCH * HIDDEN**0.5)
        np.greater(self.hidden, 0, out=self.mask)
        np.matmul(p, self.v.T, out=self.back)
        self.back *= self.mask
        return loss, x.T @ self.back, self.hidden.T @ p

    def step(self) -> float:
        """One step of gradient descent on the whole batch; returns its mean loss in nats."""
        parts = [self.part(at) for at in range(0, BATCH, self.at_once)]
        self.w -= np.float32(RATE) * sum(part[1] for part in parts)
        self.v -= np.float32(RATE) * sum(part[2] for part in parts)
        return sum(part[0] for part in parts) / BATCH


def train(folder: Path, seed: int) -> int:
    """All steps that are still to do."""
    network = Network(seed, max(1, int(BATCH * settings().micro_batch)))
    saved, asked, losses = folder / f"job-{seed}.npz", [], []
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    if saved.exists():
        with np.load(saved) as found:
            network.w, network.v, losses = found["w"], found["v"], list(found["losses"])
    while len(losses) < STEPS:
        time.sleep(DATA_S)
        losses.append(network.step())
        beside = saved.with_suffix(".new.npz")
        np.savez(beside, w=network.w, v=network.v, losses=np.array(losses))
        beside.replace(saved)
        print(f"step {len(losses)} loss {losses[-1]:.4f}", flush=True)
        if asked:
            return 0 if len(losses) == STEPS else 143
    (folder / f"job-{seed}.json").write_text(json.dumps({"loss": losses[-1]}))
    return 0


def idle(megabytes: int) -> int:
    """Hold a model until told to end."""
    held = np.ones(megabytes << 18, np.float32)
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: ended.append(number))
    print(f"model of {held.nbytes >> 20} MB loaded by {os.getpid()}", flush=True)
    while not ended:
        time.sleep(0.05)
    return 0


if __name__ == "__main__":
    sys.exit(idle(int(sys.argv[2])) if sys.argv[1] == "idle" else train(Path(sys.argv[1]), int(sys.argv[2])))
