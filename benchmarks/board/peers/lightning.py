"""Lightning's Trainer at its defaults (a checkpoint an epoch) with SpikeDetection and, for memory, BatchSizeFinder.

Promises: a loss that is not finite, or three times the running mean of 10, ends the run; the batches are written to a
file, to be left out by hand next time.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

import harness
import lightning
import torch
from lightning.fabric.utilities.spike import TrainingSpikeException
from lightning.pytorch.callbacks import BatchSizeFinder
from lightning.pytorch.callbacks.spike import SpikeDetection
from memory_job import MemoryJob
from workload import Job


class Module(lightning.LightningModule):
    """The job's model in Lightning's form."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.model = job.model
        self._job = job

    def training_step(self, batch: dict[str, torch.Tensor], index: int) -> torch.Tensor:
        loss: torch.Tensor = self.model(**batch)["loss"]
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = self._job.optimizer()
        schedule = {"scheduler": self._job.scheduler(optimizer), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}


class Lightning:
    """Trainer with SpikeDetection()."""

    version = lightning.__version__

    def __init__(self) -> None:
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        self._seen: int | None = None
        self._note = ""

    def _trainer(self, folder: Path, epochs: int, *callbacks: Any) -> lightning.Trainer:
        return lightning.Trainer(
            max_epochs=epochs, accelerator="cpu", default_root_dir=folder, callbacks=list(callbacks), logger=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip

    def train(self, job: Job) -> None:
        trainer = self._trainer(job.folder, job.epochs, SpikeDetection())
        path = self.newest(job.folder) if job.resume else None
        try:
            trainer.fit(Module(job), job.loader, ckpt_path=path)
        except TrainingSpikeException as error:
            self._seen = job.model.now
            raise harness.Stopped(str(error)) from error

    def seen(self) -> int | None:
        return self._seen

    def note(self) -> str:
        return self._note

    def newest(self, folder: Path) -> Path:
        return max(folder.rglob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)

    def load(self, job: Job, folder: Path) -> Any:
        found = torch.load(self.newest(folder), weights_only=False)
        Module(job).load_state_dict(found["state_dict"])
        return found["optimizer_states"]

    def fit_memory(self, job: MemoryJob) -> None:
        class Fitted(lightning.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.model, self.batch_size, self.tries = job.model, 128, 0

            def training_step(self, batch: dict[str, torch.Tensor], index: int) -> torch.Tensor:
                loss: torch.Tensor = self.model(**batch)["loss"]
                return loss

            def train_dataloader(self) -> Any:
                self.tries += 1
                return job.loader(self.batch_size)

            def configure_optimizers(self) -> Any:
                return job.optimizer

        module = Fitted()
        with tempfile.TemporaryDirectory() as folder:
            try:
                self._trainer(Path(folder), 1, BatchSizeFinder()).fit(module)
            finally:
                job.batch = module.batch_size
                self._note = f"batch {module.batch_size} after {module.tries} loaders"


if __name__ == "__main__":
    harness.main(Lightning)
