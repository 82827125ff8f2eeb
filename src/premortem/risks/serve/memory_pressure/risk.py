"""Memory pressure builds up in an inference worker.

What fails
    A process that answers requests holds more and more memory: a cache without bound, a batch too large for the
    machine, activations that something keeps.

Why it hurts
    At the limit the kernel kills the process (exit code 137), with every request in flight and no word to anyone. No
    handler runs, and nothing of it is in the process's own log.

How it is seen
    At every reading, from the most that was held since the one before, resident or on the device: above 3.5 GB, or
    above 0.85 of the tightest limit (cgroup, rlimit, machine, device), whichever is tighter. Both are left below
    their targets only: 3.0 GB, 0.75. A steady growth that reaches the limit within 40 readings is RED before either. So
    is a batch that did not fit.

Ladder
    clear the inference cache → reduce the batch (halved, twice) → recompute activations → reload the model. The
    cache and the model come back by themselves and are irreversible; the smaller batch is taken off after recovery.
    Reloading drops the model with all that hangs on it, from a bundle that was verified first, and then the model
    must answer as at its start. Recomputing is for workloads that train. When all are spent: emergency mode. New
    work is refused, what was accepted is finished; once memory is back it ends by itself, and if that brings the
    pressure back, it is put on again and stays until a person ends it (``recovered (held)``).

Covered / not covered
    Covered: host memory with the peak inside a batch; a device's, by torch's allocator. Not covered: memory that
    jumps past the limit between two readings (bound queue and batch); other processes of the same cgroup, which no
    rung can shrink; swap. The ladder takes up to 25 readings to its last rung: keep ``horizon`` above that.

Drill
    A real worker under a real memory limit that kills: a cache without bound, bursts that make oversized batches,
    and a hook that keeps activations. Outcome: the share of requests not answered, or wrong.

Source
    HRM-9.1.2 (HRM design document, section 9: 3.5 GB warning, target below 3.0 GB).
"""

from __future__ import annotations

from dataclasses import dataclass

from premortem.core.action import Override
from premortem.core.clock import ticks
from premortem.core.ladder import Relation, Rung
from premortem.core.risk import Risk, Watch
from premortem.parts.detectors import Exhaustion, Threshold

PRESSURE = frozenset({"memory pressure"})


@dataclass(frozen=True)
class Params:
    """GB are 10⁹ bytes; shares are of the tightest limit; ``horizon`` and the windows count readings."""

    red_gb: float = 3.5
    target_gb: float = 3.0
    red_share: float = 0.85
    target_share: float = 0.75
    horizon: int = 40
    batch_by: float = 0.5
    batch_tries: int = 2
    settle: int = 2  # the first reading after a rung still holds the peak before it
    confirm: int = 3
    deadline: int = 5

    def __post_init__(self) -> None:
        for name in ("gb", "share"):
            target, red = getattr(self, f"target_{name}"), getattr(self, f"red_{name}")
            if not 0 < target <= red:
                raise ValueError(f"found target_{name} {target} and red_{name} {red}, expected 0 < target <= red")
        if not 0 < self.batch_by < 1:
            raise ValueError(f"found batch_by {self.batch_by}, expected a factor between 0 and 1")


def watches(p: Params) -> tuple[Watch, ...]:
    """What is held, what is left, and how soon it ends."""
    return (
        Watch("memory in use", "memory_used", "memory pressure",
              lambda: Threshold(red=p.red_gb, clear=p.red_gb - p.target_gb)),
        Watch("share of the limit", "memory_share", "memory pressure",
              lambda: Threshold(red=p.red_share, clear=p.red_share - p.target_share), required=False),
        Watch("growth towards the limit", "memory_share", "memory pressure",
              lambda: Exhaustion(horizon=p.horizon), required=False),
        Watch("batch that did not fit", "out_of_memory", "memory pressure",
              lambda: Threshold(red=0.5), required=False),
    )  # fmt: skip


def rungs(p: Params) -> tuple[Rung, ...]:
    """What is cheapest to lose goes first."""

    def rung(name: str, control: str, override: Override, relation: Relation, **more: int | str) -> Rung:
        return Rung(name, control, override, PRESSURE, relation, settle=ticks(p.settle), confirm=p.confirm,
                    deadline=ticks(p.deadline), **more)  # type: ignore[arg-type]  # fmt: skip

    return (
        rung("clear the inference cache", "cache", Override("choose", "clear"), Relation.IRREVERSIBLE),
        rung("reduce the batch", "batch", Override("scale", p.batch_by), Relation.CUMULATIVE, tries=p.batch_tries),
        rung("recompute activations", "recompute", Override("choose", 1.0), Relation.CUMULATIVE),
        rung("reload the model", "model", Override("choose", "reload"), Relation.IRREVERSIBLE,
             condition="the model answers as at its start"),
    )  # fmt: skip


def contingency(p: Params) -> Rung:
    """Refuse new work, finish what was accepted; with time for that."""
    return Rung("emergency mode", "admission", Override("choose", "emergency"), PRESSURE,
                settle=ticks(p.settle), confirm=p.confirm, deadline=ticks(12 * p.deadline))  # fmt: skip


RISK = Risk("memory pressure builds up", "inference", Params, watches, rungs, contingency)
