"""HuggingFace's Trainer at its defaults: clipping at 1.0, logging_nan_inf_filter; and a checkpoint an epoch.

Promises: NaN and Inf losses are kept out of the log; with auto_find_batch_size, a batch size that fits.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import harness
import transformers
from memory_job import MemoryJob
from transformers import Trainer, TrainingArguments
from workload import BATCH, Job


class Transformers:
    """Trainer."""

    version = transformers.__version__

    def __init__(self) -> None:
        self._note = ""

    def _trainer(self, job: Any, folder: Path, optimizers: Any, **more: Any) -> Trainer:
        args = TrainingArguments(
            output_dir=str(folder), save_strategy="epoch", use_cpu=True, report_to=[], disable_tqdm=True,
            seed=job.seed, **more,
        )  # fmt: skip
        return Trainer(job.model, args, train_dataset=job.data, optimizers=optimizers)

    def train(self, job: Job) -> None:
        trainer = self._of(job)
        try:
            trainer.train(resume_from_checkpoint=job.resume or None)
        finally:
            logged = [row for row in trainer.state.log_history if "loss" in row]
            bad = [row for row in logged if not math.isfinite(row["loss"])]
            self._note = f"log: {len(logged)} losses, {len(bad)} of them not finite"

    def _of(self, job: Job) -> Trainer:
        optimizer = job.optimizer()
        both = (optimizer, job.scheduler(optimizer))
        return self._trainer(job, job.folder, both, num_train_epochs=job.epochs, per_device_train_batch_size=BATCH)

    def seen(self) -> int | None:
        return None

    def note(self) -> str:
        return self._note

    def newest(self, folder: Path) -> Path:
        return max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))

    def load(self, job: Job, folder: Path) -> Any:
        job.folder = folder
        trainer = self._of(job)
        trainer.args.num_train_epochs = 0.01  # already done: it loads and returns
        trainer.train(resume_from_checkpoint=True)
        return trainer.optimizer.state_dict()

    def fit_memory(self, job: MemoryJob) -> None:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            trainer = self._trainer(
                job, Path(folder), (job.optimizer, None), num_train_epochs=1, per_device_train_batch_size=128,
                auto_find_batch_size=True,
            )  # fmt: skip
            trainer.train()
            self._note = f"ended with batch {trainer._train_batch_size}"


if __name__ == "__main__":
    harness.main(Transformers)
