"""A small real program that trains, saves and goes on from what it saved; for drills and tests of the supervisor.

It knows nothing of premortem: plain Python, a logistic regression by SGD, a checkpoint renamed into place after every
step. Its bugs are real and sleep until a file beside it wakes them: ``leak`` (memory is held at every step), ``hang``
(a lock is taken twice, once in all starts).
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
import zlib
from pathlib import Path

from premortem.stages.process.group import LimitedGroup, LimitNotPermitted
from premortem.stages.process.handing import Handing
from premortem.stages.process.progress import Progress
from premortem.stages.process.running import Running, Setup
from premortem.stages.process.starts import Starts
from premortem.stages.process.workload import ProcessWorkload

_PAUSE_S, _EVERY_S = 0.04, 0.1
"""Seconds: of a step at least, and between two looks while it runs."""
SCRIPT = """
import json, math, os, random, sys, threading, time

steps, seed, pause_s, log_bytes = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
state = {"step": 0, "weights": [0.0, 0.0, 0.0], "loss": None}
if os.path.exists("checkpoint.json"):
    state = json.load(open("checkpoint.json"))
held, lock = [], threading.Lock()
for step in range(state["step"] + 1, steps + 1):
    draw, w, loss = random.Random(seed * 100003 + step), state["weights"], 0.0
    for _ in range(8):
        x = [1.0, draw.gauss(0, 1), draw.gauss(0, 1)]
        y = 1.0 if x[1] - 0.5 * x[2] + 0.3 * draw.gauss(0, 1) > 0 else 0.0
        p = 1.0 / (1.0 + math.exp(-sum(a * b for a, b in zip(w, x))))
        loss -= math.log(p if y else 1.0 - p) / 8
        w = [a + 0.1 * (y - p) * b for a, b in zip(w, x)]
    if os.path.exists("leak"):
        held.append(b"x" * int(open("leak").read()))
    if os.path.exists("hang") and not os.path.exists("hung"):
        open("hung", "w").close()
        lock.acquire()
        lock.acquire()
    time.sleep(pause_s)
    state = {"step": step, "weights": w, "loss": loss}
    with open("checkpoint.new", "w") as new:
        json.dump(state, new)
    os.replace("checkpoint.new", "checkpoint.json")
    if log_bytes:
        with open("log", "ab") as log:
            log.write(b"." * log_bytes)
    print("step", step, "loss", round(loss, 4), flush=True)
"""


class Job:
    """The program in a folder of its own, under a :class:`Running`; nothing starts it again but a ladder.

    Args:
        folder: where it works.
        seed: of its data.
        num_steps, log_bytes: how many steps, and what each adds to a log file.
        limit: bytes that a control group of its own allows; :attr:`refused` says where that was not permitted.
    """

    def __init__(
        self, folder: Path, seed: int, *, num_steps: int, log_bytes: int = 0, limit: int | None = None
    ) -> None:
        self.folder, self._num_steps = folder, num_steps
        self.refused = ""
        group = None if limit is None else self._group(limit)
        (folder / "train.py").write_text(SCRIPT, "utf-8")
        words = (num_steps, seed, _PAUSE_S, log_bytes)
        command = (sys.executable, "-I", "-S", "train.py", *map(str, words))
        self._nowhere = os.open(os.devnull, os.O_WRONLY)
        setup = Setup(command=command, grace_s=1.0, limit=limit, group=group, folder=folder, stdout=self._nowhere,
                      stderr=self._nowhere)  # fmt: skip
        starts = Starts(most=20, same=3, backoff_s=0.1, progress=Progress())
        self.running = Running(setup, starts, Handing(os.environ, folder, {}))
        self.workload = ProcessWorkload(self.running, folder)
        self._began = time.monotonic()
        self.running.start({})

    def _group(self, limit: int) -> LimitedGroup | None:
        try:
            return LimitedGroup(limit)
        except LimitNotPermitted as error:
            self.refused = str(error)
            return None

    def advance(self, tick: int) -> list[float | None]:
        """One look; waits only while the program runs."""
        running = self.running
        if running.child is not None:
            running.await_end(_EVERY_S)
            if running.child.status is not None:
                running.finish()
        return self.workload.look(time.monotonic() - self._began)

    def checkpoint(self) -> dict[str, object]:
        """What it saved last; empty where there is nothing."""
        try:
            return dict(json.loads((self.folder / "checkpoint.json").read_text("utf-8")))
        except (OSError, ValueError):
            return {}

    def outcome(self) -> float:
        """The loss of its last step in nats; NaN where it did not get there."""
        saved = self.checkpoint()
        return float(str(saved["loss"])) if saved.get("step") == self._num_steps else math.nan

    def digest(self) -> str:
        """Of what it computed."""
        return f"{zlib.crc32(json.dumps(self.checkpoint()).encode()):08x}"

    def close(self) -> None:
        """Nothing of it stays but its folder."""
        self.running.close()
        if self.running.setup.group is not None:
            self.running.setup.group.close()
        os.close(self._nowhere)
