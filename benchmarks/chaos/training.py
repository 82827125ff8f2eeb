"""The training script of the chaos run: a language model on standard-library text, guarded or plain.

    python -m benchmarks.chaos.training FOLDER --steps 5000 [--plain] [--schedule FILE]

It is started again as often as the supervisor likes: what has happened to it is in its folder.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import struct
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import torch
from benchmarks.chaos.kinds import BY_NAME, Kind, Scene
from torch import Tensor, nn
from torch.utils.data import DataLoader

import premortem
from premortem.stages.train.lm import LanguageModel, Recipe
from premortem.stages.train.lm import loss as next_token_loss
from premortem.stages.train.lm.config import LanguageModelConfig
from premortem.stages.train.text import ByteTokeniser, Windows, encode_corpus, read_standard_library
from premortem.stages.train.text.batches import split_by_file

MODEL = LanguageModelConfig()
SEED = 0


class Counter:
    """Counts attempted steps where a SIGKILL cannot lose them."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(8))
        self._file = path.open("r+b")
        self._map = mmap.mmap(self._file.fileno(), 8)

    def add(self) -> None:
        """One more."""
        self._map[:] = struct.pack("<q", struct.unpack("<q", self._map[:])[0] + 1)


class Chaos:
    """Puts on what the schedule says, once in the whole run, whatever restarts come between."""

    def __init__(self, schedule: dict[int, str], diary: Path, scene: Scene) -> None:
        self._schedule, self._diary, self._scene = schedule, diary, scene
        met = [json.loads(line) for line in diary.read_text().splitlines()] if diary.exists() else []
        self._met = {row["step"] for row in met}
        self._on: Kind | None = None
        self._stack = ExitStack()
        self._until = 0

    def at(self, step: int, tick: int, batch: Tensor) -> Tensor:
        """Called before each step: ``step`` of the weights, ``tick`` of the guard; returns the batch to train on."""
        if self._on is not None and tick >= self._until:
            self.close()
        due = [s for s in self._schedule if s <= step and s not in self._met]
        if self._on is None and due:
            self._begin(min(due), step, tick)
        return batch if self._on is None else self._on.batch(batch)

    def close(self) -> None:
        """Take off what is on."""
        self._on = None
        self._stack.close()

    def _begin(self, due: int, step: int, tick: int) -> None:
        kind = BY_NAME[self._schedule[due]]
        self._met.add(due)
        row = {"step": due, "at": step, "tick": tick, "kind": kind.name, "wall": time.time()}
        with self._diary.open("a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
        print(f"chaos: {kind.name}", flush=True)
        self._on, self._until = kind, tick + kind.steps
        self._stack.enter_context(kind.put_on(self._scene))


def main() -> None:
    """Train to the end; the last line is the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--checkpoints", type=Path)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--schedule", type=Path)
    parser.add_argument("--plain", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    recipe = Recipe(model=MODEL, num_steps=given.steps, warmup_steps=50, peak_lr=3e-3)
    model = LanguageModel(recipe.model)
    optimizer = recipe.optimizer(model)
    scheduler = recipe.scheduler(optimizer)
    training, validation = data(given.folder)
    order = torch.Generator().manual_seed(SEED)
    loader = DataLoader(training, recipe.batch_size, shuffle=True, drop_last=True, generator=order)
    counter, began = Counter(given.folder / "steps.bin"), time.monotonic()
    if given.plain:
        plain(model, optimizer, scheduler, loader, given.steps, recipe.clip_norm, counter)
    else:
        schedule = {} if given.schedule is None else json.loads(given.schedule.read_text())
        chaos = {int(step): name for step, name in schedule.items()}
        guarded(model, optimizer, scheduler, loader, given, recipe.clip_norm, counter, chaos)
    result = {"validation": evaluate(model, validation), "seconds": time.monotonic() - began}
    (given.folder / "result.json").write_text(json.dumps(result))
    print(json.dumps(result), flush=True)


def data(folder: Path) -> tuple[Windows, Windows]:
    """Windows of text, split by file; read once, and kept for the next start."""
    kept = folder / "data.pt"
    if not kept.exists():
        sides = split_by_file(read_standard_library(max_bytes=1 << 20, kinds=("docstring",)))
        torch.save([encode_corpus(side, ByteTokeniser()) for side in sides], kept)
    training, validation = torch.load(kept)
    return Windows(training, MODEL.context), Windows(validation[: 1 << 16], MODEL.context)


@torch.no_grad()
def evaluate(model: nn.Module, windows: Windows) -> float:
    """Mean loss in nats over the validation windows."""
    model.eval()
    everything = torch.stack([windows[i] for i in range(len(windows))])
    losses = [float(next_token_loss(model, part)) * len(part) for part in everything.split(64)]
    return sum(losses) / len(everything)


def plain(model, optimizer, scheduler, loader, steps, clip_norm, counter) -> None:  # noqa: PLR0913
    """The clean run, as anyone would write it."""
    step = 0
    while step < steps:
        for batch in loader:
            counter.add()
            next_token_loss(model, batch).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            scheduler.step()
            step += 1
            if step >= steps:
                return


def guarded(model, optimizer, scheduler, loader, given, clip_norm, counter, schedule) -> None:  # noqa: PLR0913
    """The same run, guarded, with whatever the schedule brings."""
    scene = Scene(model, optimizer, given.checkpoints, given.folder / "spool", [])
    chaos = Chaos(schedule, given.folder / "diary.jsonl", scene)
    guard = premortem.Guard(Path(__file__).with_name("register.yaml"), ledger=given.folder / "ledger.db")
    run = guard.training(
        model, optimizer, scheduler=scheduler, checkpoints=given.checkpoints, max_norm=clip_norm,
        save_every=10, probation=20, device_poll_s=0.05,
    )  # fmt: skip
    place = {"tensorboard": str(given.folder / "board")}
    with run, premortem.tracking.open(place, project="chaos", run="chaos", spool=scene.spool) as tracker:
        while run.step_number < given.steps and not run.stopped:
            for batch in run.batches(loader):
                step = run.step_number
                disturbed = chaos.at(step, run.ticks, batch)
                counter.add()
                stepped = run.step(next_token_loss, disturbed)
                if stepped is not None:
                    tracker.log({"loss": stepped.loss}, step=run.ticks)
                if step % 50 == 0:
                    print(f"step {step}", flush=True)
                if run.step_number >= given.steps or run.stopped:
                    break
        chaos.close()
    if run.stopped:
        sys.exit(f"the guard stopped the run: {run.stop_reason}")


if __name__ == "__main__":
    main()
