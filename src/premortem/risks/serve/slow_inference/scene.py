"""A real service in a thread of its own, its clients, and the housekeeping that long-lived services do."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import shutil
import tempfile
import threading
import time
from collections.abc import Coroutine
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TextIO, TypeVar

import torch

from premortem.core.errors import ConfigError
from premortem.faults.owner import is_orphan, owned_name
from premortem.risks.serve.slow_inference.crowd import SIZE, Crowd, Got, Judge, digest
from premortem.stages.serve.reasoner import Reasoner
from premortem.stages.serve.service import MazeWalks, Service, ServiceConfig
from premortem.stages.serve.service.latency_baseline import LatencyBaseline
from premortem.stages.serve.service.workload import ServiceWorkload
from premortem.stages.train.hrm import HRM, HRMConfig
from premortem.stages.train.hrm.card import save_model
from premortem.stages.train.hrm.config import Halting
from premortem.stages.train.maze import VOCABULARY, MazeConfig, make_split
from premortem.stages.train.ppo import PPOPolicy

T = TypeVar("T")
PERIOD_S = 0.25
RATE = 200.0
LATE = 1.5
"""An answer is of no use after so many times the healthy p95 ..."""
LATE_MS = 20.0
"""... and not before so many milliseconds."""
COLLECT_S = 0.25
CONFIG = HRMConfig(
    seq_len=SIZE * SIZE, vocab_size=VOCABULARY, hidden_size=32, num_heads=2, expansion=2.0, width_multiple=16,
    high_layers=1, low_layers=1, cycles=2, steps_per_cycle=2, positions="learned", loss="softmax",
    halting=Halting(max_segments=8),
)  # fmt: skip
_PATIENCE_S = 120.0


class Scene:
    """One arm: started when it is made, ended by ``close``."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._turn = _alone()
        self.folder = _owned_folder()
        self.policy = trained_policy()
        self.bundle = save_model(self.folder / "deployed", 1, seeded_model(CONFIG, seed), task="maze", size=SIZE)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="service", daemon=True)
        self._thread.start()
        config = ServiceConfig(cache=512, max_wait_s=0.4, timeout_s=2.0)
        self.service = Service([self.bundle], config, fallbacks={"maze": MazeWalks(self.policy, "walks")})
        self._is_over = False
        try:
            self.call(self.service.start())
        except BaseException:
            self.close()
            raise
        gc.collect()
        gc.freeze()  # what the imports left is never garbage
        path = self.folder / "latency-baseline.json"
        self.workload = ServiceWorkload(self.service, lambda key: LatencyBaseline(path, key))
        self._judge = judge_of(seed, self.policy)
        self.crowd = Crowd(self.service, RATE, seed)
        self._tending = asyncio.run_coroutine_threadsafe(self._tend(), self._loop)
        self._asking = asyncio.run_coroutine_threadsafe(self.crowd.run(lambda: self._is_over), self._loop)
        self._next = time.monotonic()
        self._began: dict[int, float] = {}

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Carry it out on the service's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_PATIENCE_S)

    def advance(self, tick: int) -> list[float | None]:
        """The reading of the next quarter of a second. Time that was spent elsewhere is not made up for."""
        now = self._began[tick] = time.monotonic()
        self._next = max(self._next + PERIOD_S, now)
        time.sleep(self._next - now)
        return self.workload.row()

    def end(self) -> None:
        """Nobody asks any more, and all that was asked is settled."""
        self._is_over = True
        self._asking.result(_PATIENCE_S)

    @cached_property
    def judged(self) -> dict[int, bytes]:
        """Sound answers by request, once all is over."""
        return self._judge.sound(self.crowd.got)

    def digest(self, seconds: float) -> str:
        """Of the answers to requests of the first so many seconds, as near as a schedule tells."""
        self.end()
        return digest(self.judged, int(0.8 * RATE * seconds))

    def missed(self, first_tick: int) -> float:
        """Share of the requests since that tick that were late, wrong or refused."""
        self.end()
        known = self.workload.baseline.known
        late_ms = LATE_MS if known is None else max(LATE_MS, LATE * known.p95_ms)
        begin = self._began[first_tick]
        since = [got for got in self.crowd.got if got.asked_at >= begin]
        sound = self.judged
        return sum(_is_missed(got, late_ms, sound) for got in since) / max(1, len(since))

    def close(self) -> None:
        """End everything that was started."""
        gc.unfreeze()
        self._is_over = True
        try:
            if hasattr(self, "_tending"):
                self._tending.cancel()
            self.call(self.service.close(0.5))
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_PATIENCE_S)
            self._loop.close()
            shutil.rmtree(self.folder, ignore_errors=True)
            self._turn.close()

    async def _tend(self) -> None:
        """Full collections at fixed intervals, as services do that must not grow between them."""
        while True:
            await asyncio.sleep(COLLECT_S)
            gc.collect()


def _alone() -> TextIO:
    """One arm that measures time at a time, whatever process it is in; held until the file is closed."""
    turn = (Path(tempfile.gettempdir()) / "premortem-measures-time.lock").open("w", encoding="ascii")
    fcntl.flock(turn, fcntl.LOCK_EX)
    return turn


def _is_missed(got: Got, late_ms: float, sound: dict[int, bytes]) -> bool:
    return got.reply is None or got.waited_ms > late_ms or got.number not in sound


def seeded_model(config: HRMConfig, seed: int) -> HRM:
    """The seeded, untrained weights of such a model."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return HRM(config)


@lru_cache(1)
def judge_of(seed: int, policy: PPOPolicy) -> Judge:
    """Of the undisturbed model; arms of one seed share what it thought."""
    folder = _owned_folder()
    try:
        bundle = save_model(folder, 1, seeded_model(CONFIG, seed), task="maze", size=SIZE)
        return Judge(Reasoner(bundle, CONFIG), policy)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@lru_cache(1)
def trained_policy() -> PPOPolicy:
    """A fallback trained for a few seconds; once a process."""
    try:
        from premortem.stages.train.ppo.recipe import PPORecipe
        from premortem.stages.train.ppo.training import train_ppo
    except ImportError as error:
        raise ConfigError(f"this drill trains its fallback and needs {error.name}; install premortem[rl]") from error
    from premortem.stages.train.ppo.network import WalkNetConfig

    split = make_split(MazeConfig(size=SIZE, train_layouts=200, held_out_layouts=20))
    return train_ppo(split.train, PPORecipe(8192, WalkNetConfig(channels=8, rounds=6)), seed=0).policy


def _owned_folder() -> Path:
    """A temporary folder; what arms that were killed have left is removed first."""
    for old in Path(tempfile.gettempdir()).glob("premortem-slow-*"):
        if is_orphan(old.name, "slow"):
            shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{owned_name('slow')}-"))
