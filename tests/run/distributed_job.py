"""A training of several processes for the tests and the soak: ``python distributed_job.py FOLDER KIND STEPS [FAULT]``.

Started by hand in each process with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, as torchrun does it. Writes
``end-<rank>.json`` into FOLDER when it ends well. KIND: ``ddp``, ``fsdp``, ``alone`` or ``refusals``. FAULT (JSON):
``{"rank": 1, "nan": [40, 41]}`` poisons that process's loss, ``"lr": [150, 260, 1000]`` multiplies every rate,
``"kill"`` at a step ends the process by SIGKILL, ``"stop"`` by SIGSTOP, ``"term"`` sends it SIGTERM.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import premortem
from premortem.core.errors import ConfigError
from premortem.core.evidence import Record
from premortem.stages.train.distributed.shards import is_sharded
from premortem.stages.train.guarded.gradients import local
from premortem.stages.train.guarded.requests import digest

RANK, SIZE = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
ROWS, BATCH = 512, 16


def made(kind: str) -> nn.Module:
    """The model, in the way of KIND."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 33), nn.Tanh(), nn.BatchNorm1d(33), nn.Dropout(0.1), nn.Linear(33, 1))
    if kind == "ddp":
        return DistributedDataParallel(net)
    if kind == "fsdp":
        for layer in (net[0], net[4]):
            fully_shard(layer)
        fully_shard(net)
    return net


def loader() -> DataLoader[Any]:
    """Each process's share of one set of rows."""
    numbers = torch.Generator().manual_seed(3)
    x = torch.randn(ROWS, 6, generator=numbers)
    rows = TensorDataset(x, torch.sin(x.sum(1, keepdim=True)))
    order = DistributedSampler(rows, SIZE, RANK, shuffle=True, seed=7)
    return DataLoader(rows, BATCH, sampler=order, drop_last=True)


class Fault:
    """What FAULT asks for, in the process that it is for."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self.asked = asked if asked.get("rank", RANK) == RANK else {}

    def before(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        for name, number in (("kill", signal.SIGKILL), ("stop", signal.SIGSTOP), ("term", signal.SIGTERM)):
            if step == self.asked.get(name):
                os.kill(os.getpid(), number)
        begin, end, by = self.asked.get("lr", (-1, -1, 1))
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (by if begin <= step < end else 1)

    def on(self, step: int, loss: Tensor) -> Tensor:
        begin, end = self.asked.get("nan", (-1, -1))
        return loss * math.nan if begin <= step < end else loss


def refusals(folder: Path) -> dict[str, str]:
    """What is refused in several processes, in each one's words; and a run that asks to be alone."""
    said: dict[str, str] = {}

    def begin(name: str, optimizer: Any, net: nn.Module, **options: Any) -> None:
        try:
            with premortem.Guard().training(net, optimizer(net.parameters()), **options) as run:
                x = torch.ones(4, 6)
                run.step(net(x).mean())
                said[name] = f"went on, {run.company.peers.size}"
        except ConfigError as error:
            said[name] = str(error)

    begin("lbfgs", torch.optim.LBFGS, made("ddp"), checkpoints=folder / "a")
    begin("filter", torch.optim.AdamW, made("fsdp"), checkpoints=folder / "b", gradient_filter=object())
    begin("folder", torch.optim.AdamW, made("ddp"), checkpoints=folder / f"own-{RANK}")
    begin("alone", torch.optim.AdamW, made("alone"), checkpoints=folder / f"own-{RANK}", alone=True)
    return said


def main() -> None:
    folder, kind, steps = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    fault = Fault(json.loads(sys.argv[4]) if len(sys.argv) > 4 else {})
    if SIZE > 1:
        dist.init_process_group("gloo", timeout=timedelta(seconds=float(os.environ.get("PEER_TIMEOUT", "30"))))
    if kind == "refusals":
        (folder / f"end-{RANK}.json").write_text(json.dumps(refusals(folder)))
        return
    model = made(kind)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    heard: list[Record] = []
    digests: dict[int, int] = {}
    with premortem.Guard().training(model, optimizer, checkpoints=folder / "ckpt", max_norm=1.0, save_every=20) as run:
        run.driver.listen(heard.append)
        began_at, data = run.ticks, loader()
        while run.ticks < steps and not run.stopped:
            data.sampler.set_epoch(run.epoch)  # type: ignore[attr-defined]
            for x, y in run.batches(data):
                fault.before(run.ticks, optimizer)
                run.step(fault.on(run.ticks, nn.functional.mse_loss(model(x), y)))
                digests[run.ticks] = digest(dict(model.named_parameters()))  # running statistics are each process's own
                if run.ticks >= steps:
                    break
    rungs = [str(r.data["rung"]) for r in heard if r.event == "intent" and r.data.get("verb") == "turn"]
    end = {
        "began_at": began_at, "ticks": run.ticks, "steps": run.step_number, "stop": run.stop_reason, "rungs": rungs,
        "events": [r.event for r in heard], "digests": digests, "sharded": is_sharded(model),
        "finite": all(bool(torch.isfinite(local(p.detach())).all()) for p in model.parameters()),
    }  # fmt: skip
    (folder / f"end-{RANK}.json").write_text(json.dumps(end))
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
