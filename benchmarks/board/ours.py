"""premortem by the loop of its README, nothing else; bundles at its own pace, or every so many steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import harness
from memory_job import MemoryJob
from torch import Tensor, nn
from workload import STEPS_AN_EPOCH, Job

import premortem


def loss_fn(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Mean loss."""
    loss: Tensor = model(**batch)["loss"]
    return loss


class Premortem:
    """Skips, restores, verifies; promises that what it leaves can be trusted, or says that it cannot."""

    version = premortem.__version__

    def __init__(self, save_every: int = 0) -> None:
        self._save_every = save_every
        self._seen: int | None = None
        self._note = ""
        self._skipped: list[int] = []

    def train(self, job: Job) -> None:
        optimizer = job.optimizer()
        scheduler = job.scheduler(optimizer)
        guard = premortem.Guard()
        with guard.training(
            job.model, optimizer, scheduler=scheduler, checkpoints=job.folder, save_every=self._save_every
        ) as run:
            began, steps = run.step_number, job.epochs * STEPS_AN_EPOCH
            while run.step_number < steps and not run.stopped:
                for batch in run.batches(job.loader):
                    stepped = run.step(loss_fn, batch)
                    if stepped is not None and not stepped.applied:
                        self._skipped.append(run.ticks)
                    if run.step_number >= steps:
                        break
            self._tell(run, began, job)
        if run.stopped:
            raise harness.Stopped(run.stop_reason)

    def _tell(self, run: Any, began: int, job: Job) -> None:
        records = [row.record for row in run.ledger.records()]
        opened = [record.tick for record in records if record.event == "opened"]
        self._seen = min((*opened, *self._skipped), default=0) - 1 if opened or self._skipped else None
        self._note = f"{len(opened)} incidents, {len(self._skipped)} steps skipped"
        if job.resume:
            self._note += f"; from step {began}"

    def seen(self) -> int | None:
        return self._seen

    def note(self) -> str:
        return self._note

    def newest(self, folder: Path) -> Path:
        return max(folder.glob("step-*"))

    def load(self, job: Job, folder: Path) -> Any:
        optimizer = job.optimizer()
        with premortem.Guard().training(
            job.model, optimizer, scheduler=job.scheduler(optimizer), checkpoints=folder
        ) as run:
            if not run.step_number:
                raise FileNotFoundError("no bundle to resume from")
        return optimizer.state_dict()

    def fit_memory(self, job: MemoryJob) -> None:
        job.batch = 128
        with premortem.Guard().training(job.model, job.optimizer) as run:
            for batch in run.batches(job.loader()):
                run.step(loss_fn, batch)
