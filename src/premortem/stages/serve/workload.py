"""The worker as a workload: what can be read of it, and what can be turned. It knows nothing of risks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict

from premortem.core.action import Control, Override, OverrideStack, Owner, Setting
from premortem.core.signal import Signal
from premortem.stages.serve.meter import Meter, meter_for
from premortem.stages.serve.solver import Solver
from premortem.stages.train.guarded.requests import Request

SIGNALS = (
    Signal("memory_used", "GB", help="the most since the last reading, resident or on the device; 10⁹ bytes"),
    Signal("memory_share", "share", help="of the tightest limit: cgroup, rlimit, machine or device"),
    Signal("cache_entries", "entries"),
    Signal("queue_length", "requests"),
    Signal("oldest_s", "s", help="how long the oldest unanswered request has waited"),
    Signal("answered", "requests", higher_is_worse=False, help="since the last reading"),
    Signal("refused", "requests", help="since the last reading"),
    Signal("lost", "requests", help="accepted and not answered, since the last reading"),
    Signal("out_of_memory", "batches", help="that did not fit and were halved, since the last reading"),
    Signal("batch_in_force", "requests", help="the cap by which the newest batch was formed"),
    Signal("loaded", "", higher_is_worse=False, help="1 with a model, 0 without"),
)
_COUNTED = ("answered", "refused", "lost", "out_of_memory")


class BatchCap:
    """Puzzles computed together at most."""

    def __init__(self, solver: Solver) -> None:
        self._solver = solver
        self._stack = OverrideStack(solver.batch_cap)

    def turn(self, owner: Owner, override: Override) -> None:
        """In force at the worker's next turn."""
        self._set(self._stack.put(owner, override))

    def undo(self, owner: Owner) -> None:
        """Remove the owner's cap."""
        self._set(self._stack.remove(owner))

    def read(self) -> Setting:
        """The cap that the worker goes by."""
        return self._solver.batch_cap

    def _set(self, value: Setting) -> None:
        if isinstance(value, str):
            raise TypeError(f"found the batch cap {value!r}, expected a number")
        self._solver.cap_batch(value)


class Door:
    """Whether new work is taken: ``open``, ``emergency`` or ``closed``."""

    def __init__(self, solver: Solver) -> None:
        self._solver = solver
        self._stack = OverrideStack(solver.admission)

    def turn(self, owner: Owner, override: Override) -> None:
        """In force for the next request."""
        self._solver.admission = self._stack.put(owner, override)  # type: ignore[assignment]  # checked there

    def undo(self, owner: Owner) -> None:
        """Remove the owner's override."""
        self._solver.admission = self._stack.remove(owner)  # type: ignore[assignment]  # checked there

    def read(self) -> Setting:
        """What the worker goes by."""
        return self._solver.admission


class InferenceWorkload:
    """A :class:`Solver`, read a row at a time; the owner of the loop decides how often.

    Training's ``recompute`` is not offered: without gradients no activation is kept, so there is none to compute anew.
    """

    kind = "inference"
    signals = SIGNALS
    witnesses: Mapping[str, str] = {"batch": "batch_in_force"}

    def __init__(self, solver: Solver, meter: Meter | None = None) -> None:
        self.solver = solver
        self._meter = meter or meter_for(solver.reasoner.device)
        self._before = asdict(solver.counts)
        self._cleared_at: int | None = None
        self._loaded_as = 0
        self.controls: Mapping[str, Control] = {
            "cache": Request(self._clear, self._was_cleared),
            "batch": BatchCap(solver),
            "model": Request(self._reload, self._was_reloaded),
            "admission": Door(solver),
        }
        self.conditions: Mapping[str, Callable[[], bool | None]] = {
            "the model answers as at its start": solver.reasoner.is_as_loaded
        }

    def row(self) -> list[float | None]:
        """One value a signal, in the order of :data:`SIGNALS`."""
        solver, held, now = self.solver, self._meter.read(), asdict(self.solver.counts)
        counted = {name: float(now[name] - self._before[name]) for name in _COUNTED}
        self._before = now
        values = {
            "memory_used": held.used_gb,
            "memory_share": held.share,
            "cache_entries": float(len(solver.cache)),
            "queue_length": float(solver.queue_length),
            "oldest_s": solver.oldest_s,
            "batch_in_force": float(solver.batch_in_force),
            "loaded": float(solver.reasoner.is_loaded),
            **counted,
        }
        return [values[signal.name] for signal in SIGNALS]

    def _clear(self, request: str) -> None:
        self._cleared_at = None
        self.solver.clear_cache()
        self._cleared_at = self.solver.cache.clears

    def _was_cleared(self) -> bool:
        """The cache itself counts its clearings; it may have filled again since."""
        return self._cleared_at is not None and self._cleared_at == self.solver.cache.clears

    def _reload(self, request: str) -> None:
        self._loaded_as = 0
        self.solver.reload()
        self._loaded_as = self.solver.reasoner.loads

    def _was_reloaded(self) -> bool:
        """The model in memory is that of this load, and its weights are the bundle's."""
        reasoner = self.solver.reasoner
        return reasoner.loads == self._loaded_as and reasoner.is_as_loaded()
