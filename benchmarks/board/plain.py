"""What a plain torch loop is made of, for peers that leave the loop to their user: epochs, checkpoints by DCP."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from workload import STEPS_AN_EPOCH, Job

Update = Callable[[torch.Tensor, Any], None]


def newest(folder: Path) -> Path:
    """The checkpoint with the highest step."""
    return max(folder.glob("step-*"))


def train(job: Job, optimizer: Any, update: Update) -> None:
    """Epoch after epoch, a checkpoint after each; ``update(loss, optimizer)`` is the backward pass and the step."""
    scheduler = job.scheduler(optimizer)
    first = 0
    if job.resume:
        first = load(job, optimizer, newest(job.folder), scheduler) // STEPS_AN_EPOCH
    for epoch in range(first, job.epochs):
        for batch in job.loader:
            optimizer.zero_grad()
            update(job.model(**batch)["loss"], optimizer)
            scheduler.step()
        state = _state(job, optimizer)
        dcp.save(state, checkpoint_id=job.folder / f"step-{(epoch + 1) * STEPS_AN_EPOCH:05}")


def load(job: Job, optimizer: Any, path: Path, scheduler: Any = None) -> int:
    """Load by DCP; the step that it was saved at."""
    state = _state(job, optimizer)
    dcp.load(state, checkpoint_id=path)
    set_state_dict(job.model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    step = int(path.name.removeprefix("step-"))
    if scheduler is not None:
        scheduler.last_epoch = step  # a schedule by lambda has no other state
    return step


def _state(job: Job, optimizer: Any) -> dict[str, Any]:
    model, optim = get_state_dict(job.model, optimizer)
    return {"model": model, "optimizer": optim}
