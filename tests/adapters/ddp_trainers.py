"""A Trainer of two processes under DDP for the tests: ``python ddp_trainers.py FOLDER transformers|lightning``.

Process 1's loss is NaN in step 30. Each process writes ``end-<rank>.json``.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from premortem.stages.train.guarded.requests import digest

RANK, STEPS, AT = int(os.environ["RANK"]), 60, 30


class Net(nn.Module):
    """A regression whose output carries the loss."""

    step = 0

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 24), nn.Tanh(), nn.Linear(24, 1))

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        loss = nn.functional.mse_loss(self.net(x), labels)
        return {"loss": loss * math.nan if RANK == 1 and self.step == AT else loss, "logits": labels}


def rows() -> tuple[Tensor, Tensor]:
    x = torch.randn(512, 6, generator=torch.Generator().manual_seed(3))
    return x, torch.sin(x.sum(1, keepdim=True))


def with_transformers(folder: Path, model: Net, digests: dict[int, int]) -> Any:
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from premortem.adapters.transformers import GuardCallback

    class Count(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            model.step = state.global_step
            digests[model.step] = digest(dict(model.named_parameters()))

    args = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=8, max_steps=STEPS, report_to=[], save_strategy="no",
        disable_tqdm=True, use_cpu=True, ddp_backend="gloo", seed=1, dataloader_pin_memory=False,
    )  # fmt: skip
    callback = GuardCallback()
    data = [{"x": x, "labels": y} for x, y in zip(*rows(), strict=True)]
    Trainer(model=model, args=args, train_dataset=data, callbacks=[callback, Count()]).train()  # type: ignore[arg-type]
    return args.world_size


def with_lightning(folder: Path, model: Net, digests: dict[int, int]) -> Any:
    pl = importlib.import_module("lightning.pytorch")

    from premortem.adapters.lightning import GuardCallback

    class Module(pl.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = model

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            model.step = self.trainer.global_step
            digests[model.step] = digest(dict(model.named_parameters()))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.net(*batch)["loss"]  # type: ignore[no-any-return]

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=3e-3)

    trainer = pl.Trainer(
        default_root_dir=str(folder), max_steps=STEPS, accelerator="cpu", devices=2, strategy="ddp", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, gradient_clip_val=0.5,
        callbacks=[GuardCallback()],
    )  # fmt: skip
    trainer.fit(Module(), DataLoader(TensorDataset(*rows()), 8, shuffle=True))
    return trainer.world_size


def main() -> None:
    warnings.simplefilter("ignore")  # the libraries' own
    folder, digests, model = Path(sys.argv[1]), dict[int, int](), Net()
    run = with_transformers if sys.argv[2] == "transformers" else with_lightning
    size = run(folder, model, digests)
    finite = all(bool(torch.isfinite(p).all()) for p in model.parameters())
    (folder / f"end-{RANK}.json").write_text(json.dumps({"size": size, "digests": digests, "finite": finite}))


if __name__ == "__main__":
    main()
