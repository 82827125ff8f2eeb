"""One small training that every peer runs, and the real faults of the board.

Needs torch alone: peers import it by path. A byte-level language model of three layers learns source text of Python's
standard library: 600 steps of 64 windows, five epochs, AdamW with warm-up and cosine, no clipping unless the peer's own
default clips. A fault is tied to the count of training forward passes in this process, so a transient one comes once,
whatever the peer rolls back or repeats.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import math
import os
import signal
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

CONTEXT, BATCH, EPOCHS, STEPS_AN_EPOCH = 12, 64, 5, 120
STEPS = EPOCHS * STEPS_AN_EPOCH
ONSET = 300
FILES = ("argparse.py", "ast.py", "datetime.py", "tarfile.py")
NUM_HELD_OUT = 512


@functools.cache
def _bytes() -> Tensor:
    folder = Path(sysconfig.get_paths()["stdlib"])
    raw = b"".join((folder / name).read_bytes() for name in FILES)
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8).long() % 128


class Text(Dataset[dict[str, Tensor]]):
    """Windows of ``CONTEXT + 1`` bytes, evenly spread over the text; every tenth one is held out."""

    def __init__(self, num: int, *, held_out: bool = False) -> None:
        self.bytes = _bytes()
        apart = (len(self.bytes) - CONTEXT - 1) / (num * (10 if held_out else 10 / 9))
        places = (i for i in range(num * 10) if (i % 10 == 9) == held_out)
        self.starts = [int(apart * place) for place, _ in zip(places, range(num), strict=False)]

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        at = self.starts[index]
        return {"inputs": self.bytes[at : at + CONTEXT], "labels": self.bytes[at + CONTEXT]}


class Disturbed(nn.Module):
    """Counts training forward passes and lets the row's fault act in them; a healthy run passes through."""

    def __init__(self, row: str) -> None:
        super().__init__()
        self.row, self.now, self.is_quiet = row, -1, False
        self.curve: dict[int, float] = {}
        self.on_step: list[Any] = []

    def tick(self) -> None:
        self.now += 1
        for call in self.on_step:
            call(self.now)
        if self.row == "killed" and self.now == ONSET + 100:
            os.kill(os.getpid(), signal.SIGKILL)

    def is_on(self, first: int = ONSET, num: int = 1) -> bool:
        return first <= self.now < first + num


class Model(Disturbed):
    """Inputs ``[B, T]`` and labels ``[B]`` → ``{"loss": mean cross-entropy in nats, "logits": [B, 128]}``."""

    def __init__(self, row: str, width: int = 16, hidden: int = 96) -> None:
        super().__init__(row)
        self.embedding = nn.Embedding(128, width)
        self.norm = nn.LayerNorm(hidden)
        self.inner = nn.Linear(CONTEXT * width, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.head = nn.Linear(hidden, 128)
        if row == "nan gradient":
            self.head.weight.register_post_accumulate_grad_hook(self._poison_gradient)

    def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        is_training = self.training and torch.is_grad_enabled()
        if is_training:
            self.tick()
            inputs, labels = self._bad_shard(inputs, labels)
        x = self.embedding(inputs).flatten(1)
        if is_training and self._is_poisoned():
            x = x.masked_fill(torch.arange(x.shape[1]) == 0, math.nan)
        x = functional.gelu(self.inner(x))
        logits = self.head(self.norm(x + functional.gelu(self.second(x))))
        loss = functional.cross_entropy(logits, labels)
        return {"loss": loss * self._factor() if is_training else loss, "logits": logits}

    def _poison_gradient(self, parameter: Tensor) -> None:
        if self.is_on() and parameter.grad is not None:
            with torch.no_grad():
                parameter.grad.view(-1)[7] = math.nan

    def _is_poisoned(self) -> bool:
        if self.row == "nan loss":
            return self.is_on()
        return self.row == "nan from a step on" and self.now >= ONSET

    def _bad_shard(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """From the onset on, labels that belong to other bytes: the loss rises by about 1.0 and stays there."""
        if self.row != "shift" or not self.is_on(ONSET, STEPS):
            return inputs, labels
        made = torch.Generator().manual_seed(self.now)
        wrong = torch.rand(labels.shape, generator=made) < SHIFT_SHARE
        return inputs, torch.where(wrong, torch.randint(0, 128, labels.shape, generator=made), labels)

    def _factor(self) -> float:
        if self.row == "two spikes":
            return 1e4 if self.is_on() else 1e3 if self.is_on(ONSET + 30) else 1.0
        return 1.0


SHIFT_SHARE = 0.2


def rate_factor(row: str, now: int) -> float:
    """What the fault makes of the learning rate at a step."""
    if row == "rate x 100" and ONSET <= now < ONSET + 20:
        return 100.0
    if row == "divergence 2 %" and ONSET <= now < ONSET + 250:
        return float(1.02 ** (now - ONSET))
    return 1.0


@dataclass
class Job:
    """One seeded training, ready to go; ``folder`` is for the peer's checkpoints."""

    row: str
    folder: Path
    seed: int = 0
    resume: bool = False
    epochs: int = EPOCHS
    model: Model = field(init=False)

    def __post_init__(self) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(self.seed)
        self.model = Model("healthy" if self.resume else self.row)
        self.data = Text(BATCH * STEPS_AN_EPOCH)
        self.loader = DataLoader(
            self.data, BATCH, shuffle=True, drop_last=True, generator=torch.Generator().manual_seed(self.seed)
        )
        held_out = Text(NUM_HELD_OUT, held_out=True)
        self._held_out = torch.utils.data.default_collate([held_out[i] for i in range(NUM_HELD_OUT)])
        self.model.on_step.append(self._watch)

    def _watch(self, now: int) -> None:
        if now % 60 == 0:
            self.model.curve[now] = self.validate()

    def validate(self) -> float:
        """Loss on held-out text, in nats; NaN and Inf as they are."""
        was = self.model.training
        self.model.eval()
        with torch.no_grad():
            value = float(self.model(**self._held_out)["loss"])
        self.model.train(was)
        return value

    def optimizer(self, kind: Any = torch.optim.AdamW, **options: Any) -> Any:
        """The recipe's optimiser, or a peer's of the same parameters, with the fault of the rate on its steps."""
        made = kind(self.model.parameters(), lr=2e-3, betas=(0.9, 0.95), weight_decay=0.01, **options)
        if self.model.row in ("rate x 100", "divergence 2 %"):
            made.register_step_pre_hook(lambda opt, *_: self._scale(opt, forth=True))
            made.register_step_post_hook(lambda opt, *_: self._scale(opt, forth=False))
        return made

    def _scale(self, optimizer: Any, *, forth: bool) -> None:
        factor = rate_factor(self.model.row, self.model.now)
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * factor if forth else group["lr"] / factor

    def scheduler(self, optimizer: Any) -> torch.optim.lr_scheduler.LambdaLR:
        """Warm-up of 20 steps, then cosine to a tenth."""

        def factor(step: int) -> float:
            if step < 20:
                return (step + 1) / 20
            return 0.1 + 0.45 * (1.0 + math.cos(math.pi * min(1.0, (step - 20) / (STEPS - 20))))

        return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def digest(*states: Any) -> str:
    """One text for all tensors in nested state, by their bytes, in order."""
    found = hashlib.sha256()

    def walk(node: Any) -> None:
        if isinstance(node, Tensor):
            flat = node.detach().cpu().contiguous()
            found.update(ctypes.string_at(flat.data_ptr(), flat.numel() * flat.element_size()))
        elif isinstance(node, dict):
            for key in sorted(node, key=str):
                walk(node[key])
        elif isinstance(node, list | tuple):
            for value in node:
                walk(value)

    walk(states)
    return found.hexdigest()[:16]
