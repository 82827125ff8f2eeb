"""The device is lost or busy.

What fails
    The accelerator that a run computes on fails in the middle of a step: a driver error, an uncorrectable memory
    error, another process that holds it, a reset that takes away what lay in its memory.

Why it hurts
    The exception ends the process with all that was not saved; an update torn in the middle leaves weights that are
    half moved and look whole; a run that only retries burns hours before anyone notices.

How it is seen
    At the failing step itself: *device lost*, RED at once. Where the device works for new memory and the weights do
    not answer, *memory lost*. A failure within the optimiser's step: *torn update*, CRITICAL. Every 16 steps the room
    that the driver reports: *device busy*, RED below 4 GB (settable; CUDA only).

Ladder
    wait for the device → resume from the checkpoint → train on the CPU. Waiting looks once a minute (option
    ``device_poll_s``) for at most an hour, and is passed over where memory is lost: it would come back empty.
    Resuming takes new memory on the same device and the newest bundle that verifies. The CPU is left again, when
    all is well, if the device answers. When all is spent the run stops; its last bundle is valid.

Covered / not covered
    Covered: the second form of ``run.step``, whose forward pass can be taken again with the same random numbers.
    Not covered: the first form (its exception goes on as it came); a CUDA context that is dead for this process,
    which only a new process mends (`premortem supervise` starts one); kernels that hang; sharded models.

Drill
    A small language model whose device refuses everything for a while, loses the memory of the weights, loses it
    again after the restore, and fails within the optimiser's step.

Source
    AF-I.3 (agent forge, infrastructure: GPU lost or busy).
"""

from __future__ import annotations

from dataclasses import dataclass

from premortem.core.action import Override
from premortem.core.clock import seconds, ticks
from premortem.core.ladder import Relation, Rung
from premortem.core.risk import Risk, Watch
from premortem.parts.detectors import Threshold

LOST, MEMORY, TORN, BUSY = "device lost", "memory lost", "torn update", "device busy"


@dataclass(frozen=True)
class Params:
    """Free memory as the source counts it, read against GiB; ``wait_s`` bounds the wait for the device."""

    free_gb: float = 4.0
    wait_s: float = 3600.0
    confirm: int = 5
    deadline: int = 40


def watches(p: Params) -> tuple[Watch, ...]:
    """The looks at a device that failed, and the room on it."""
    return (
        Watch("device error", "device_lost", LOST, lambda: Threshold(red=0.5)),
        Watch("lost memory", "memory_lost", MEMORY, lambda: Threshold(red=0.5)),
        Watch("torn update", "torn_update", TORN, lambda: Threshold(critical=0.5)),
        Watch("free device memory", "device_free", BUSY, lambda: Threshold(red=p.free_gb, below=1.0), required=False),
    )


def rungs(p: Params) -> tuple[Rung, ...]:
    """Wait, resume, leave."""
    any_of_them, deadline = frozenset({LOST, MEMORY, TORN}), ticks(p.deadline)
    return (
        Rung("wait for the device", "device_patience", Override("choose", 1.0), frozenset({LOST, BUSY}),
             settle=ticks(1), confirm=p.confirm, deadline=seconds(p.wait_s)),
        Rung("resume from the checkpoint", "checkpoint", Override("choose", "newest"), any_of_them,
             Relation.IRREVERSIBLE, settle=ticks(1), confirm=p.confirm, deadline=deadline),
        Rung("train on the CPU", "device", Override("choose", 1.0), any_of_them,
             settle=ticks(1), confirm=p.confirm, deadline=deadline),
    )  # fmt: skip


def contingency(p: Params) -> Rung:
    """The last bundle is valid; what the device holds is not trusted."""
    return Rung("stop with the last checkpoint", "run", Override("choose", "stopped: the device is lost"),
                frozenset({LOST, MEMORY, TORN}), ends_run=True)  # fmt: skip


RISK = Risk("the device is lost or busy", "training", Params, watches, rungs, contingency)
