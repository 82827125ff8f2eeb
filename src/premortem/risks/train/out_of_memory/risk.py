"""Training runs out of memory: a batch too large, a model too large, or memory that leaks.

What fails
    A forward or backward pass asks for more memory than the host's or the device's limit leaves.

Why it hurts
    On a device and under RLIMIT an exception ends the run. Under a control group, as containers have, there is no
    exception: the kernel kills (exit code 137), and what was not saved is lost.

How it is seen
    Every batch: what it needs at its peak, predicted from measured passes (before any: a trial on its first samples),
    over 90 % of what the tightest limit leaves is RED. The real peak of a pass over 90 % of it is RED. An exception
    for want of memory is RED. Memory held between steps that grows at a pace which reaches the limit within 100
    steps is RED as a leak, within 25 CRITICAL. A budget of one's own (``memory_budget_gb``) counts as a limit.

Ladder
    take the largest batch that fits (32 samples at most) → accumulate gradients (one sample at a time) → recompute
    activations → train in mixed precision. Register entries may add: empty caches (the only rung for a leak) → unload
    idle models. The effective batch stays what it was: a piece's mean loss counts by its share.
    A rung against a leak may use half of the steps that are left to the limit; the other half is for what comes last.
    Last: stop with a valid checkpoint (a smaller model is a person's decision), or train on the CPU (``contingency``).

Covered / not covered
    Covered: ``run.step(loss_fn, batch)``; no step is lost while one sample fits, and none is taken twice. In
    ``run.step(loss)`` activations can be recomputed and the run stopped in order; nothing can be split. Not covered:
    the optimiser's own step; memory of other processes but for what they leave; batches that cannot be cut along
    samples, losses that are no mean: both are reported.

Drill
    A real limit that kills, met by a batch twice as large, by four micro-batches at once and by a leak; a real limit
    that refuses, met by twice the parameters.

Source
    AF-1.3 (agent forge), UT-R006 (UltraThink).
"""

from __future__ import annotations

from dataclasses import dataclass

from premortem.core.action import Override
from premortem.core.clock import ticks
from premortem.core.ladder import Rung
from premortem.core.risk import Risk, Watch
from premortem.parts.detectors import Threshold
from premortem.parts.detectors.exhaustion import Exhaustion

TOO_LARGE = frozenset({"batch too large", "out of memory"})
ANY = TOO_LARGE | {"leak"}
CPU = "cpu"


@dataclass(frozen=True)
class Params:
    """``share`` is of what the tightest limit leaves, ``leak_limit_share`` of the limit itself; durations in steps.

    ``contingency`` is ``stop`` or ``cpu``.
    """

    share: float = 0.9
    largest_batch: int = 32
    leak_limit_share: float = 1.0
    leak_horizon: int = 100
    leak_critical: int = 25
    leak_block: int = 4
    caches_every: int = 4  # well within the eight values of fast growth: what is emptied so often is no trend
    contingency: str = "stop"
    confirm: int = 4
    deadline: int = 16

    def __post_init__(self) -> None:
        if self.contingency not in ("stop", CPU):
            raise ValueError(f"contingency: found {self.contingency!r}, expected 'stop' or 'cpu'")
        if self.largest_batch < 1:
            raise ValueError(f"largest_batch: found {self.largest_batch}, expected at least 1")


def watches(p: Params) -> tuple[Watch, ...]:
    """Before it happens, as it happens, and slowly."""
    return (
        Watch("predicted need", "memory_need", "batch too large", lambda: Threshold(red=p.share), required=False),
        Watch("memory in use", "memory_share", "batch too large", lambda: Threshold(red=p.share), required=False),
        Watch("exceptions", "ooms", "out of memory", lambda: Threshold(red=0.5)),
        Watch("growth", "memory_held", "leak",
              lambda: Exhaustion(limit=p.leak_limit_share, horizon=p.leak_horizon, block=p.leak_block,
                                 critical=p.leak_critical), required=False),
        # near the limit there is no time for long blocks, and only a fast growth reaches it
        Watch("fast growth", "memory_held", "leak",
              lambda: Exhaustion(limit=p.leak_limit_share, horizon=p.leak_critical, block=max(1, p.leak_block // 2),
                                 critical=p.leak_critical / 2), required=False),
    )  # fmt: skip


def rungs(p: Params) -> tuple[Rung, ...]:
    """From what costs nothing to what changes the numbers."""

    def rung(name: str, control: str, override: Override, mends: frozenset[str] = TOO_LARGE) -> Rung:
        return Rung(name, control, override, mends, settle=ticks(1), confirm=p.confirm, deadline=ticks(p.deadline))

    return (
        rung("take the largest batch that fits", "micro_batch", Override("cap", float(p.largest_batch))),
        rung("accumulate gradients", "micro_batch", Override("cap", 1.0)),
        rung("empty caches", "caches", Override("cap", float(p.caches_every)), ANY),
        rung("unload idle models", "idle_models", Override("cap", 0.0)),
        rung("recompute activations", "recompute", Override("choose", 1.0)),
        rung("train in mixed precision", "precision", Override("cap", 16.0)),
    )


def contingency(p: Params) -> Rung:
    """Save and stop before the kernel does; or go on where there is more memory, and slowly."""
    if p.contingency == CPU:
        return Rung("train on the CPU", "device", Override("choose", 1.0), ANY,
                    settle=ticks(1), confirm=p.confirm, deadline=ticks(p.deadline))  # fmt: skip
    stop = Override("choose", "stopped: out of memory; start again with a smaller model, or more memory")
    return Rung("stop with a valid checkpoint", "orderly_end", stop, ANY, ends_run=True)


RISK = Risk("training runs out of memory", "training", Params, watches, rungs, contingency)
