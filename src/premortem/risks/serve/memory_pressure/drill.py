"""A real inference worker under a real memory limit that kills, with three real causes of growth.

Weights are seeded and untrained: right is what an undisturbed model of the same bundle answers. Each tick is a round
of requests, answered before the next; the outcome is the share of all requests not answered right.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from premortem.core.drill import Bounds
from premortem.faults.disturbance import Disturbance
from premortem.faults.fault import Evidence, Fault
from premortem.faults.memory import MemoryLimit
from premortem.faults.owner import is_orphan, owned_name
from premortem.risks.case import Ticking, WatchedCase
from premortem.stages.serve import InferenceWorkload, Reasoner, Settings, Solver
from premortem.stages.serve.clients import Clients, seeded_bundle
from premortem.stages.train.hrm import HRMConfig
from premortem.stages.train.hrm.config import Halting

RATE = 128
AT = 16
NUM_TICKS = 118
MB = 10**6
GROWTH = 120 * MB
"""What the process may still take when it is confined: two thirds of what it holds then."""
CONFIG = HRMConfig(
    seq_len=16, vocab_size=5, hidden_size=96, num_heads=4, expansion=2.0, width_multiple=16, high_layers=1,
    low_layers=1, cycles=1, steps_per_cycle=1, positions="learned", loss="softmax", halting=Halting(max_segments=1),
)  # fmt: skip
"""About 13 kB a cached thought and 0.17 MB of activations a puzzle."""


class UnboundCache(Disturbance):
    """The bound of the answer cache is gone, as after an edited setting."""

    name = "cache without bound"

    def __init__(self, solver: Solver) -> None:
        self._cache = solver.cache
        self._before: int | None = None
        self._most = 0

    def _apply(self) -> None:
        self._before, self._most = self._cache.bound, self._cache.most
        self._cache.bound = None

    def _undo(self) -> None:
        self._cache.bound = self._before

    def observed(self) -> Evidence:
        """Whether it really held more than its bound allows."""
        most = self._cache.most
        over = self._before is not None and most > self._before
        return Evidence(over, f"{self.name}: held {most} entries, the bound was {self._before}")

    def gone(self) -> Evidence:
        """Counts the entries again."""
        held = len(self._cache)
        within = self._before is not None and self._cache.bound == self._before and held <= self._before
        return Evidence(within, f"{self.name}: {held} entries under the bound {self._cache.bound}")


class Bursts(Disturbance):
    """Clients ask more at once every round, by ``more`` requests and up to ``most``, so that batches grow."""

    name = "bursts"

    def __init__(self, clients: Clients, more: int, most: int) -> None:
        self._clients, self._more, self._most = clients, more, most
        self._usual = clients.rate
        self._before = 0

    def _apply(self) -> None:
        self._before = self._clients.solver.counts.largest_batch
        self._clients.growth = (self._more, self._most)

    def _undo(self) -> None:
        self._clients.growth, self._clients.rate = (0, 0), self._usual

    def observed(self) -> Evidence:
        """Whether a batch larger than any before was really computed."""
        largest = self._clients.solver.counts.largest_batch
        return Evidence(largest > self._before, f"{self.name}: batches of up to {largest}, {self._before} before")

    def gone(self) -> Evidence:
        """Reads what clients ask now."""
        usual = self._clients.rate == self._usual and not self._clients.growth[0]
        return Evidence(usual, f"{self.name}: {self._clients.rate} requests a round")


class _Kept:
    """What the hooks keep; only they hold it, so it lives as long as the hooked model."""

    def __init__(self, told: Callable[[int], None]) -> None:
        self._told = told
        self._tensors: list[Tensor] = []
        self._num_bytes = 0

    def __call__(self, module: nn.Module, inputs: object, output: Tensor) -> None:
        self._tensors.append(output.detach().clone())
        self._num_bytes += output.numel() * output.element_size()
        self._told(self._num_bytes)


class LeakedActivations(Disturbance):
    """Forward hooks on modules of the model that keep what they see, as forgotten debugging does."""

    name = "leaked activations"

    def __init__(self, solver: Solver) -> None:
        self._reasoner = solver.reasoner
        self._kept: weakref.ref[_Kept] | None = None
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._most = 0

    def _apply(self) -> None:
        model = self._reasoner.model
        kept = _Kept(self._saw)
        self._kept = weakref.ref(kept)
        modules: tuple[nn.Module, ...] = (model.embedding, model.low, model.high)
        self._handles = [module.register_forward_hook(kept) for module in modules]

    def _saw(self, num_bytes: int) -> None:
        self._most = num_bytes

    def _undo(self) -> None:
        while self._handles:
            self._handles.pop().remove()

    def observed(self) -> Evidence:
        """What was kept at most; a reload may have taken hooks and tensors away since."""
        return Evidence(self._most > 0, f"{self.name}: up to {self._most} bytes were kept")

    def gone(self) -> Evidence:
        """Whether neither hooks nor tensors are left in memory."""
        left = None if self._kept is None else self._kept()
        return Evidence(left is None, f"{self.name}: {'nothing is' if left is None else 'the hooks are'} left")


def owned_folder() -> Path:
    """A temporary folder; what arms that were killed have left is removed first."""
    for old in Path(tempfile.gettempdir()).glob("premortem-serve-*"):
        if is_orphan(old.name, "serve"):
            shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{owned_name('serve')}-"))


def worker(seed: int) -> Ticking:
    """A worker and its clients; everything it needs is made here, so it can be built in a process of its own."""
    folder = owned_folder()
    solver = Solver(Reasoner(seeded_bundle(folder, CONFIG, seed), CONFIG), Settings(queue=4096, batch=800, cache=256))
    clients = Clients(solver, seed, RATE)
    clients.ask(0)  # so that libraries have loaded what they load at first use
    limit = MemoryLimit(GROWTH)
    limit.__enter__()
    workload = InferenceWorkload(solver)

    def advance(tick: int) -> list[float | None]:
        clients.ask(tick)
        return workload.row()

    def close() -> None:
        limit.remove()
        shutil.rmtree(folder, ignore_errors=True)

    return Ticking(
        workload=workload,
        advance=advance,
        outcome=clients.unserved,
        subject=clients,
        digest=clients.digest,
        close=close,
    )


def _clients(run: Ticking) -> Clients:
    assert isinstance(run.subject, Clients)
    return run.subject


def unbound(run: Ticking) -> Fault:
    """Every new puzzle stays."""
    return UnboundCache(_clients(run).solver)


def bursts(run: Ticking) -> Fault:
    """A batch of about 720 does not fit."""
    return Bursts(_clients(run), 16, 800)


def leaked(run: Ticking) -> Fault:
    """Everything that three modules put out stays."""
    return LeakedActivations(_clients(run).solver)


_BOUNDS = Bounds(detect_within=70, absolute=0.001)

CASES = (
    WatchedCase(name="cache without bound", build=worker, fault=unbound, at=AT, lasts=10**6, num_ticks=NUM_TICKS,
                bounds=_BOUNDS, confined=True),
    WatchedCase(name="oversized batches", build=worker, fault=bursts, at=AT, lasts=10**6, num_ticks=NUM_TICKS,
                bounds=_BOUNDS, confined=True),
    WatchedCase(name="leaked activations", build=worker, fault=leaked, at=AT, lasts=10**6, num_ticks=NUM_TICKS,
                bounds=_BOUNDS, confined=True),
)  # fmt: skip
