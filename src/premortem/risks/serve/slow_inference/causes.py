"""What really makes this service slow: a cache without bound, and a heavier model under the same name.

Contention for the processor and a stopped worker are faults of any process: ``premortem.faults``.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path

import psutil
import torch

from premortem.faults.disturbance import Disturbance
from premortem.faults.fault import Evidence
from premortem.faults.process import Stopped
from premortem.risks.serve.slow_inference.crowd import SIZE
from premortem.stages.serve.service import Answer, Service
from premortem.stages.train.hrm import HRM, HRMConfig
from premortem.stages.train.hrm.card import save_model

_PATIENCE_S = 120.0
_AT_ONCE = 5000
_BREATH_S = 0.005


class BloatedCache(Disturbance):
    """The bound of the answer cache is gone, and a crawl has filled it: every full collection walks all of it.

    Covered: the real cache with real answers, and the collections that the service does anyway.
    """

    name = "cache without bound"

    def __init__(self, service: Service, entries: int) -> None:
        self._cache = service.cache
        self.entries = entries
        self._bound: int | None = None
        self._seen = 0

    def _apply(self) -> None:
        self._bound, self._cache.bound = self._cache.bound, None
        for number in range(self.entries):
            tokens = number.to_bytes(SIZE * SIZE, "little")
            answer = Answer(tokens, "hrm", "crawled", 1, 8, None, halted=True, batch=1, valid=False)
            self._cache.put(b"crawl\0" + tokens, answer)
            if number % _AT_ONCE == 0:
                time.sleep(_BREATH_S)  # it comes with requests, and not in one piece
        self._seen = len(self._cache)

    def _undo(self) -> None:
        if self._cache.bound is None:
            self._cache.bound = self._bound

    def observed(self) -> Evidence:
        """What it held at most."""
        held = self._seen
        return Evidence(held >= self.entries, f"{self.name}: held {held} answers, the bound was {self._bound}")

    def gone(self) -> Evidence:
        """Counts the entries again."""
        held, bound = len(self._cache), self._cache.bound
        return Evidence(bound is not None and held <= bound, f"{self.name}: {held} answers under the bound {bound}")


class Wedged(Stopped):
    """The worker that answers now is stopped where it stands; a later one is not."""

    name = "wedged worker"

    def __init__(self, service: Service) -> None:
        super().__init__(service.worker_pid)


class HeavierModel(Disturbance):
    """A bundle of the same name and the same answers whose model computes many times as much is deployed.

    It has further blocks that change nothing, as an export that was never pruned has. Restarting loads it again.
    """

    name = "heavier model"

    def __init__(self, service: Service, bundle: Path, layers: int) -> None:
        self._service, self._bundle, self._aside = service, bundle, bundle.with_name("aside")
        self._layers = layers
        self._heavy: Path | None = None
        self._seen = Evidence(None, f"{self.name}: never entered")

    def prepare(self, model: HRM) -> None:
        """Write the bundle that will be deployed, beside the one that is served."""
        heavy = deepened(model, self._layers)
        self._heavy = save_model(self._bundle.parent.parent / "heavy", 1, heavy, task="maze", size=SIZE)

    def _apply(self) -> None:
        assert self._heavy is not None
        self._bundle.rename(self._aside)
        shutil.copytree(self._heavy, self._bundle)
        before = self._service.restarts
        self._service.reload_worker().result(_PATIENCE_S)
        self._seen = Evidence(
            self._service.restarts > before, f"{self.name}: {self._layers} blocks where there was one, served"
        )

    def _undo(self) -> None:
        if not self._aside.exists():
            return
        shutil.rmtree(self._bundle, ignore_errors=True)
        self._aside.rename(self._bundle)
        self._service.reload_worker().result(_PATIENCE_S)

    def observed(self) -> Evidence:
        """Whether a worker took it."""
        return self._seen

    def gone(self) -> Evidence:
        """Whether the worker that answers loaded the bundle of before, and that lies where it lay."""
        version = next(iter(self._service.crew.models.values())).version
        is_back = not self._aside.exists() and psutil.pid_exists(self._service.worker_pid)
        return Evidence(is_back, f"{self.name}: {version} answers")


def deepened(model: HRM, layers: int) -> HRM:
    """The same function with so many blocks a module: what a further block adds is zero, and norms are idempotent."""
    config: HRMConfig = replace(model.config, high_layers=layers, low_layers=layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        deep = HRM(config)
    deep.load_state_dict(model.state_dict(), strict=False)
    known = set(model.state_dict())
    for name, weight in deep.named_parameters():
        if name not in known and name.endswith(("attention.out.weight", "mlp.down.weight")):
            torch.nn.init.zeros_(weight)
    return deep


__all__ = ["BloatedCache", "HeavierModel", "Wedged", "deepened"]
