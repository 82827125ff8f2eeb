"""The kinds of fault of the chaos run: each is put on in the training process and lasts some steps.

``step`` kinds disturb the computation, ``end`` kinds end or stop the process; nothing here is simulated.
"""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from premortem.faults.device import DeviceBusy, DeviceLost
from premortem.faults.disk import FilledDisk
from premortem.faults.memory import AddressSpaceLimit
from premortem.faults.numeric import LearningRateJump, PoisonedGradient, PoisonedOutput

MIB = 1 << 20


@dataclass(frozen=True)
class Scene:
    """What a fault may reach."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    checkpoints: Path
    spool: Path
    blocks: list[bytearray]
    """Where a leak holds what it takes."""


@dataclass(frozen=True)
class Kind:
    """``put_on`` gives what lasts for ``steps`` steps; ``batch`` changes what is handed out meanwhile."""

    name: str
    put_on: Callable[[Scene], AbstractContextManager[Any]]
    steps: int = 1
    batch: Callable[[Tensor], Tensor] = lambda batch: batch


def _embedding(scene: Scene) -> nn.Module:
    return scene.model.get_submodule("embedding")


def _on_device(scene: Scene) -> Iterator[Tensor]:
    yield from scene.model.parameters()
    yield from scene.model.buffers()
    yield from _moments(scene)


def _moments(scene: Scene) -> Iterator[Tensor]:
    for state in scene.optimizer.state.values():
        yield from (v for v in state.values() if isinstance(v, Tensor) and v.ndim)


def _itself(number: signal.Signals) -> Callable[[Scene], AbstractContextManager[Any]]:
    def put_on(scene: Scene) -> AbstractContextManager[Any]:
        os.kill(os.getpid(), number)
        return nullcontext()

    return put_on


def _crash(scene: Scene) -> AbstractContextManager[Any]:
    raise OSError("the chaos run ends this process by an exception that nobody catches")


def _corrupt_and_kill(scene: Scene) -> AbstractContextManager[Any]:
    """One flipped bit in the largest file of the newest bundle; then the process dies and must come back."""
    newest = max((p for p in scene.checkpoints.iterdir() if p.is_dir() and p.name.startswith("step")), default=None)
    if newest is not None:
        largest = max((f for f in newest.iterdir() if f.is_file()), key=lambda f: f.stat().st_size)
        with largest.open("r+b") as file:
            file.seek(largest.stat().st_size // 2)
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 1]))
    os.kill(os.getpid(), signal.SIGKILL)
    return nullcontext()


def _leak(scene: Scene) -> AbstractContextManager[Any]:
    """Each step holds 8 MiB more, and nothing ever gives it back but the end of the process."""

    def hold(module: nn.Module, inputs: Any) -> None:
        scene.blocks.append(bytearray(os.urandom(1024) * (8 * 1024)))

    handle = scene.model.register_forward_pre_hook(hold)
    stack = ExitStack()
    stack.callback(handle.remove)
    return stack


def _kill_sender(scene: Scene) -> AbstractContextManager[Any]:
    """The process that sends records to the tracker dies; training must not notice, and nothing may be lost."""
    for child in psutil.Process().children(recursive=True):
        if "tracking" in " ".join(child.cmdline()):
            child.kill()
    return nullcontext()


def _filled(scene: Scene) -> AbstractContextManager[Any]:
    stack = ExitStack()
    stack.enter_context(FilledDisk(scene.checkpoints, leave_bytes=MIB // 4))
    return stack


KINDS = (
    Kind("NaN in the activations", lambda s: PoisonedOutput(_embedding(s), range(1), math.nan)),
    Kind("NaN batches in a row", lambda s: PoisonedOutput(_embedding(s), range(4), math.nan), steps=4),
    Kind("one NaN gradient element", lambda s: PoisonedGradient(next(s.model.parameters()), range(1))),
    Kind("a huge gradient element", lambda s: PoisonedGradient(next(s.model.parameters()), range(2), 1e6), steps=2),
    Kind("learning rate × 100", lambda s: LearningRateJump(s.optimizer, 100.0), steps=3),
    Kind("a batch 16 times as large, in 48 MiB", lambda s: AddressSpaceLimit(48 * MIB), steps=1,
         batch=lambda b: b.repeat(16, 1)),
    Kind("device busy", lambda s: DeviceBusy(refusals=30)),
    Kind("device memory lost", lambda s: DeviceLost(lambda: _on_device(s))),
    Kind("update torn", lambda s: DeviceLost(lambda: _moments(s))),
    Kind("file system full", _filled, steps=40),
    Kind("tracker's sender killed", _kill_sender),
    Kind("process killed (SIGKILL)", _itself(signal.SIGKILL)),
    Kind("process stopped (SIGSTOP)", _itself(signal.SIGSTOP)),
    Kind("process crashes", _crash),
    Kind("newest bundle corrupted, process killed", _corrupt_and_kill),
    Kind("memory leak", _leak, steps=90),
)  # fmt: skip
BY_NAME = {kind.name: kind for kind in KINDS}
