"""OLMo-core's SkipStepAdamW, driven as its TransformerTrainModule drives it, with the clipping of its own configs.

It promises to skip updates whose loss or gradient norm is above mean + 6 sigma of the last 128 steps. Its Trainer also
raises when the loss that it collects every fifth step is not finite; the loop here does the same.
"""

from __future__ import annotations

import importlib.metadata
import math
from pathlib import Path
from typing import Any

import harness
import plain
import torch
from memory_job import MemoryJob
from olmo_core.distributed.checkpoint import load_model_and_optim_state, save_model_and_optim_state
from olmo_core.optim import SkipStepAdamW
from workload import STEPS_AN_EPOCH, Job

MAX_NORM, COLLECT_EVERY = 1.0, 5


class Olmo:
    """SkipStepAdamW at its defaults."""

    version = importlib.metadata.version("ai2-olmo-core")

    def __init__(self) -> None:
        self._skips: list[int] = []

    def train(self, job: Job) -> None:
        optimizer = job.optimizer(SkipStepAdamW)
        scheduler = job.scheduler(optimizer)
        first = 0
        if job.resume:
            path = plain.newest(job.folder)
            load_model_and_optim_state(path, job.model, optimizer)
            first = int(path.name.removeprefix("step-")) // STEPS_AN_EPOCH
            scheduler.last_epoch = first * STEPS_AN_EPOCH - 1
            scheduler.step()
        for epoch in range(first, job.epochs):
            for batch in job.loader:
                optimizer.zero_grad(set_to_none=True)
                loss = job.model(**batch)["loss"]
                loss.backward()
                optimizer.latest_grad_norm = torch.nn.utils.clip_grad_norm_(job.model.parameters(), MAX_NORM)
                optimizer.latest_loss = loss.detach()
                optimizer.step()
                scheduler.step()
                self._collect(optimizer, float(loss.detach()), job.model.now)
            save_model_and_optim_state(
                job.folder / f"step-{(epoch + 1) * STEPS_AN_EPOCH:05}", job.model, optimizer, save_overwrite=True
            )

    def _collect(self, optimizer: SkipStepAdamW, loss: float, now: int) -> None:
        if float(optimizer.step_skipped):
            self._skips.append(now)
        if now % COLLECT_EVERY == 0 and not math.isfinite(loss):
            self._skips.append(now)
            raise harness.Stopped(f"loss is {loss}")

    def seen(self) -> int | None:
        return self._skips[0] if self._skips else None

    def note(self) -> str:
        return f"{len(self._skips)} steps skipped"

    def newest(self, folder: Path) -> Path:
        return plain.newest(folder)

    def load(self, job: Job, folder: Path) -> Any:
        optimizer = job.optimizer(SkipStepAdamW)
        load_model_and_optim_state(plain.newest(folder), job.model, optimizer)
        return optimizer.state_dict()

    def fit_memory(self, job: MemoryJob) -> None:
        job.train_whole()


if __name__ == "__main__":
    harness.main(Olmo)
