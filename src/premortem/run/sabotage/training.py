"""A few cells on a real training: torch, the default register, checkpoints on disk, a learning rate gone wrong.

The oracle knows the truth of this run: the loss on the data, the learning-rate factor that the optimiser used, and
the overrides that the controls hold.
"""

from __future__ import annotations

import math
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from premortem.core.action import Control, Override, Owner, Setting
from premortem.core.evidence import Record
from premortem.faults.numeric import LearningRateJump
from premortem.run.guard import Guard

HOOKS = ("action", "undo", "read-back")
MUTANTS = ("no-op", "exit 1", "raise", "false success")
CONTROLS = ("learning_rate", "weights", "max_norm")
FAULT_AT = 160
_TICKS = 520


class Broken:
    """A control of the real run with one hook broken."""

    def __init__(self, control: Control, hook: str, mutant: str) -> None:
        self._control, self._hook, self._mutant = control, hook, mutant
        self._claimed: Setting = control.read()
        self._base = self._claimed

    def turn(self, owner: Owner, override: Override) -> None:
        """Turn it, or fail to."""
        self._claimed = override.over(self._base)
        self._do("action", lambda: self._control.turn(owner, override))

    def undo(self, owner: Owner) -> None:
        """Undo it, or fail to."""
        self._claimed = self._base
        self._do("undo", lambda: self._control.undo(owner))

    def read(self) -> Setting:
        """Read it, or lie."""
        if self._mutant == "false success":
            return self._claimed
        if self._hook != "read-back":
            return self._control.read()
        if self._mutant == "raise":
            raise OSError("the setting cannot be read")
        return self._base if self._mutant == "no-op" else math.nan

    def _do(self, hook: str, act: Callable[[], None]) -> None:
        if hook != self._hook:
            act()
        elif self._mutant == "raise":
            raise OSError("it refused")
        elif self._mutant == "exit 1":
            subprocess.run(["false"], check=False)


class RealTrial:
    """One small regression under guard. ``wrong`` lists verdicts of recovery that were none."""

    def __init__(self, folder: Path, control: str, hook: str, mutant: str) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=3e-3)
        self.run = Guard(entries=("DEF-1",)).training(
            self.model, self.optimizer, checkpoints=folder, save_every=20, max_norm=1.0
        )
        self.true = dict(self.run.workload.controls)
        self.broken = control
        self.run.workload.controls[control] = Broken(self.true[control], hook, mutant)
        self.fault = LearningRateJump(self.optimizer, 1000.0)
        self.wrong: list[str] = []
        self.ended = ""
        self._healthy = math.inf
        self._judged = False
        self.run.driver.listen(self._hear)

    def go(self) -> RealTrial:
        """Train, break, and train on until the verdict."""
        with self.run:
            for tick in self._ticks():
                if tick == FAULT_AT:
                    self._healthy = self._loss()
                    self.fault.__enter__()
                elif self._judged and self.fault.is_on:
                    self.fault.remove()
            self.fault.remove()
        return self

    def _ticks(self) -> Iterator[int]:
        loader = _data()
        while self.run.ticks < _TICKS and not self.run.stopped and not self.ended:
            for batch in self.run.batches(loader):
                if self.run.ticks >= _TICKS or self.ended:
                    return
                yield self.run.ticks
                self.run.step(_mse, batch)

    def _hear(self, record: Record) -> None:
        if record.event == "handed_over":
            self.ended = "handed over"
        if record.event not in ("recovered", "closed", "held"):
            return
        self._judged = True
        if record.event != "recovered":
            self.ended = str(record.data["verdict"])
        if not self._loss() < 2.0 * self._healthy + 0.05:
            self.wrong.append(f"{record.event}: the loss is {self._loss():.3g}, it was {self._healthy:.3g}")
        for name, stack in self.run.engine.site.stacks.items():
            true = self.true[name].read()
            if isinstance(true, float) and not math.isclose(true, float(stack.effective)):
                self.wrong.append(f"{record.event}: {name} is {true:g}, believed to be {stack.effective}")

    def _loss(self) -> float:
        with torch.no_grad():
            x, y = _tensors()
            return float(torch.nn.functional.mse_loss(self.model(x), y))


def _tensors() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(512, 8, generator=generator)
    return x, torch.sin(x.sum(1, keepdim=True)) + 0.1 * torch.randn(512, 1, generator=generator)


def _data() -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(*_tensors()), 32, shuffle=True, generator=torch.Generator().manual_seed(2))


def _mse(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return torch.nn.functional.mse_loss(model(batch[0]), batch[1])
