"""Plain torch: the loop and DCP as torch's tutorials write them. Promises nothing about faults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import harness
import plain
import torch
from memory_job import MemoryJob
from workload import Job


def update(loss: torch.Tensor, optimizer: Any) -> None:
    """Backward and step."""
    loss.backward()
    optimizer.step()


class Torch:
    """No guard."""

    version = torch.__version__

    def train(self, job: Job) -> None:
        plain.train(job, job.optimizer(), update)

    def seen(self) -> int | None:
        return None

    def note(self) -> str:
        return ""

    def newest(self, folder: Path) -> Path:
        return plain.newest(folder)

    def load(self, job: Job, folder: Path) -> Any:
        optimizer = job.optimizer()
        plain.load(job, optimizer, plain.newest(folder))
        return optimizer.state_dict()

    def fit_memory(self, job: MemoryJob) -> None:
        job.train_whole()


if __name__ == "__main__":
    harness.main(Torch)
