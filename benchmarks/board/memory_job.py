"""A batch of 128 that does not fit: about 16 MiB a sample, and a real limit that leaves room for 4, not for 8."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

BATCH, NUM, ROOM_MIB = 128, 256, 110


class Samples(Dataset[dict[str, Tensor]]):
    """A sum of sines to be learnt; inputs ``[16]``, labels ``[1]``."""

    def __init__(self) -> None:
        made = torch.Generator().manual_seed(0)
        self.x = torch.randn(NUM, 16, generator=made)
        self.y = torch.sin(self.x.sum(1, keepdim=True))

    def __len__(self) -> int:
        return NUM

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"inputs": self.x[index], "labels": self.y[index]}


class Wide(nn.Module):
    """Two activations of 4 MiB, kept for the backward pass, a sample; counts its training forward passes."""

    def __init__(self, width: int = 1 << 16) -> None:
        super().__init__()
        self.calls = 0
        self.spread = nn.Parameter(0.3 * torch.randn(16, width))
        self.out = nn.Parameter(torch.randn(width) / width**0.5)

    def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        self.calls += self.training
        x = torch.relu(nn.functional.hardtanh(inputs.unsqueeze(-1) * self.spread))
        found = x.sum(1) @ self.out.unsqueeze(-1)
        return {"loss": (found - labels).square().mean(), "logits": found}


class MemoryJob:
    """Two steps of 128, or what the peer makes of them."""

    def __init__(self, seed: int) -> None:
        torch.set_num_threads(1)
        self.seed = seed
        self.data = Samples()
        self.steps, self.batch = 0, 0
        self.anew()

    def anew(self) -> None:
        """Model and optimiser as at the beginning."""
        torch.manual_seed(self.seed)
        self.model = Wide()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5)
        self.optimizer.register_step_post_hook(lambda *_: self._stepped())

    def _stepped(self) -> None:
        self.steps += 1

    @property
    def calls(self) -> int:
        """Training forward passes of the model that was trained in the end."""
        return self.model.calls

    def loader(self, batch: int = BATCH) -> DataLoader[dict[str, Tensor]]:
        """In order, not shuffled: whole batches and small ones then meet the same samples."""
        return DataLoader(self.data, batch)

    def train_whole(self, batch: int = BATCH) -> None:
        """The plain loop."""
        self.batch = batch
        for rows in self.loader(batch):
            self.optimizer.zero_grad()
            self.model(**rows)["loss"].backward()
            self.optimizer.step()

    def validate(self) -> float:
        """Loss over all samples, four at a time."""
        self.model.eval()
        with torch.no_grad():
            losses = [float(self.model(**rows)["loss"]) for rows in self.loader(4)]
        self.model.train()
        return sum(losses) / len(losses)

    @contextmanager
    def limited(self) -> Iterator[None]:
        """The kernel refuses this process private memory beyond what it has now and ``ROOM_MIB``."""
        status = Path("/proc/self/status").read_text().splitlines()
        size = next(int(row.split()[1]) for row in status if row.startswith("VmData:")) << 10
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (size + (ROOM_MIB << 20), hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
