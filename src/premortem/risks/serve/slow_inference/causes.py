"""What really makes this service slow: a cache without bound, and a heavier model under the same name.

Contention for the processor and a stopped worker are faults of any process: ``premortem.faults``.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path

import torch

from premortem.core.errors import StageError
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
        self._before: str | None = None
        self._is_deployed = False
        self._seen = Evidence(None, f"{self.name}: never entered")

    def prepare(self, model: HRM) -> None:
        """Write the bundle that will be deployed, beside the one that is served."""
        heavy = deepened(model, self._layers)
        self._heavy = save_model(self._bundle.parent.parent / "heavy", 1, heavy, task="maze", size=SIZE)

    def _apply(self) -> None:
        assert self._heavy is not None
        self._before = self._served()
        if self._before is None:
            raise StageError(f"{self.name}: no worker answers, expected one whose model can be replaced")
        self._is_deployed = True
        self._bundle.rename(self._aside)
        shutil.copytree(self._heavy, self._bundle)
        self._service.reload_worker().result(_PATIENCE_S)
        now = self._served()
        told = f"{now} of {self._layers} blocks a module answers, it was {self._before}"
        self._seen = Evidence(now is not None and now != self._before, f"{self.name}: {told}")

    def _undo(self) -> None:
        if not self._is_deployed:
            return
        if self._aside.exists():
            shutil.rmtree(self._bundle, ignore_errors=True)
            self._aside.rename(self._bundle)
        # Where the bundle lies says nothing of what is served: a reload that failed is asked for again.
        self._service.reload_worker().result(_PATIENCE_S)
        now = self._served()
        if now not in (None, self._before):  # without a worker, the next one loads what lies there
            raise StageError(f"{self.name}: {now} answers after the reload, expected {self._before}")
        self._is_deployed = False

    def _served(self) -> str | None:
        """Bundle and hash of the weights, as the newest worker has said; None while none answers."""
        if not self._service.worker_pid:
            return None
        return ", ".join(model.version for model in self._service.crew.models.values())

    def observed(self) -> Evidence:
        """Whether a worker with other weights than before answered."""
        return self._seen

    def gone(self) -> Evidence:
        """Whether the worker that answers has the weights of before, and their bundle lies where it lay."""
        if self._before is None:
            return Evidence(None, f"{self.name}: never entered")
        now = self._served()
        if now is None:
            return Evidence(None, f"{self.name}: no worker answers, it was {self._before}")
        is_back = now == self._before and not self._aside.exists()
        return Evidence(is_back, f"{self.name}: {now} answers, it was {self._before}")


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
