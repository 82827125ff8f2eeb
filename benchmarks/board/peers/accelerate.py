"""accelerate: its loop, save_state and find_executable_batch_size. Promises a batch size that fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import accelerate
import harness
import plain
from accelerate.utils import find_executable_batch_size
from memory_job import MemoryJob
from workload import STEPS_AN_EPOCH, Job


class Accelerate:
    """The loop of its quick tour."""

    version = accelerate.__version__

    def __init__(self) -> None:
        self._note = ""

    def train(self, job: Job) -> None:
        accelerator, model, optimizer, loader, scheduler = self._prepared(job)
        first = 0
        if job.resume:
            path = plain.newest(job.folder)
            accelerator.load_state(str(path))
            first = int(path.name.removeprefix("step-")) // STEPS_AN_EPOCH
        for epoch in range(first, job.epochs):
            for batch in loader:
                optimizer.zero_grad()
                accelerator.backward(model(**batch)["loss"])
                optimizer.step()
                scheduler.step()
            accelerator.save_state(str(job.folder / f"step-{(epoch + 1) * STEPS_AN_EPOCH:05}"))

    def _prepared(self, job: Job) -> tuple[Any, ...]:
        accelerator = accelerate.Accelerator(cpu=True)
        optimizer = job.optimizer()
        return accelerator, *accelerator.prepare(job.model, optimizer, job.loader, job.scheduler(optimizer))

    def seen(self) -> int | None:
        return None

    def note(self) -> str:
        return self._note

    def newest(self, folder: Path) -> Path:
        return plain.newest(folder)

    def load(self, job: Job, folder: Path) -> Any:
        accelerator, _, optimizer, *_ = self._prepared(job)
        accelerator.load_state(str(plain.newest(folder)))
        return optimizer.state_dict()

    def fit_memory(self, job: MemoryJob) -> None:
        tried: list[int] = []

        @find_executable_batch_size(starting_batch_size=128)
        def inner(batch_size: int) -> None:
            tried.append(batch_size)
            job.anew()
            job.train_whole(batch_size)

        try:
            inner()
        finally:
            self._note = f"{len(tried)} calls of the whole training"


if __name__ == "__main__":
    harness.main(Accelerate)
