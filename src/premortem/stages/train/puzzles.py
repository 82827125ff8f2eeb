"""A small Hierarchical Reasoning Model that learns 4x4 Sudoku, with carry, learned halting and a weight average.

A run goes on from one common start: training on Sudoku stands still for a few hundred steps, by the seed between
250 and more than 600, before it learns at all, and a drill has no time for that lottery.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from premortem.core.action import Override, OverrideStack, Owner, Setting
from premortem.core.errors import StageError
from premortem.core.signal import Signal
from premortem.stages.train.ema import WeightEMA
from premortem.stages.train.hrm import HRM, DeepSupervision, evaluate, sudoku_config, to_batch
from premortem.stages.train.hrm.carry import Batch
from premortem.stages.train.hrm.config import Halting
from premortem.stages.train.sudoku import SudokuConfig, make_split
from premortem.stages.train.trainable import Trainable

SIGNALS = (
    Signal("mean_halt_segment", "segments", help="of the puzzles that halted in this step; nothing where none did"),
    Signal("halted_at_first", "share", help="of the puzzles that halted in this step, those at their first segment"),
    Signal("halted_at_max", "share", help="of the puzzles that halted in this step, those at the last one allowed"),
)
_DATA = SudokuConfig(4, 240, 48, puzzles_per_grid=8, held_out_puzzles_per_grid=6, clues=(9, 10), held_out_clues=(9, 9))
_CONFIG = replace(
    sudoku_config(4), hidden_size=48, num_heads=2, halting=Halting(max_segments=4, threshold=0.0, exploration=0.1)
)
_BATCH = 32
_DRAWN = 240
"""Batches that are drawn and augmented once; an epoch."""
_RATE = 5e-3
_SOLVED = 0.4
"""The common start solves this share of its training puzzles: learning has begun, and is far from done."""
_AT_MOST = 2000


@dataclass(slots=True, kw_only=True)
class PuzzleRun(Trainable):
    """A run with more to it than model and optimiser: its carry, what it measures, what can be turned."""

    supervision: DeepSupervision
    controls: Mapping[str, HaltingSetting] = field(default_factory=dict)

    def measured(self) -> dict[str, float]:
        """:data:`SIGNALS` of the last segment; NaN where no puzzle halted in it."""
        return {signal.name: float(self.supervision.metrics[signal.name]) for signal in SIGNALS}


class HaltingSetting:
    """``threshold`` or ``exploration`` of ``model.halting`` as a control: written and read where the model reads it."""

    def __init__(self, model: HRM, name: Literal["threshold", "exploration"]) -> None:
        self._model = model
        self._name: Literal["threshold", "exploration"] = name
        self._stack = OverrideStack(getattr(model.halting, name))

    def turn(self, owner: Owner, override: Override) -> None:
        """Put the override in force at the next segment."""
        self._set(self._stack.put(owner, override))

    def undo(self, owner: Owner) -> None:
        """Remove the owner's override."""
        self._set(self._stack.remove(owner))

    def read(self) -> Setting:
        """What the model halts by."""
        return float(getattr(self._model.halting, self._name))

    def _set(self, value: Setting) -> None:
        if isinstance(value, str):
            raise TypeError(f"found the setting {value!r} for halting, expected a number")
        if self._name == "threshold":
            self._model.halting = replace(self._model.halting, threshold=value)
        else:
            self._model.halting = replace(self._model.halting, exploration=value)


class _Drawn(Dataset[Batch]):
    """Puzzles that were augmented beforehand, one an item."""

    def __init__(self, inputs: Tensor, labels: Tensor) -> None:
        self._inputs, self._labels = inputs, labels

    def __len__(self) -> int:
        return len(self._inputs)

    def __getitem__(self, index: int) -> Batch:
        return {"inputs": self._inputs[index], "labels": self._labels[index]}


@dataclass(frozen=True, eq=False, slots=True)
class _Puzzles:
    train: _Drawn
    held_out: Batch

    def loader(self, seed: int) -> DataLoader[Batch]:
        order = torch.Generator().manual_seed(seed)
        return DataLoader(self.train, _BATCH, shuffle=True, drop_last=True, generator=order)


@cache
def _puzzles() -> _Puzzles:
    split = make_split(_DATA)
    stream = split.batches(_BATCH, seed=0)
    drawn = [to_batch(*stream.batch(step)) for step in range(_DRAWN)]
    train = _Drawn(torch.cat([b["inputs"] for b in drawn]), torch.cat([b["labels"] for b in drawn]))
    return _Puzzles(train, to_batch(split.held_out.puzzles, split.held_out.solutions))


def _supervised(model: HRM) -> DeepSupervision:
    blank = torch.zeros(_BATCH, model.config.seq_len, dtype=torch.int64)
    return DeepSupervision(model, {"inputs": blank, "labels": blank})


def _optimizer(model: HRM) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), lr=_RATE, betas=(0.9, 0.95), weight_decay=1.0)


def _share(step: int, *, warm_up: int, num_steps: int) -> float:
    """Of the peak rate: linear warm-up, then cosine to a twentieth."""
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, step / num_steps)))
    return min(1.0, (step + 1) / warm_up) * (0.05 + 0.95 * cosine)


@cache
def _start() -> dict[str, Tensor]:
    """Weights of a model that has begun to solve puzzles, trained once a process (about 400 steps).

    Raises StageError where it does not begin in many times the usual number of steps.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = HRM(_CONFIG)
        supervision, optimizer = _supervised(model), _optimizer(model)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 50))
        loader, solved, step = _puzzles().loader(0), 0.0, 0
        while step < _AT_MOST:
            for batch in loader:
                torch.autograd.backward(supervision(model, batch))
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
                supervision.commit()
                step += 1
                solved += 0.05 * (float(supervision.metrics["exact_accuracy"]) - solved)
                if solved >= _SOLVED:
                    return {name: value.clone() for name, value in model.state_dict().items()}
    raise StageError(f"the common start solves {solved:.0%} after {step} steps, expected {_SOLVED:.0%}")


def small_hrm(seed: int, *, num_steps: int = 300) -> PuzzleRun:
    """The drill workload: from the common start to the floor, with seeded order and exploration.

    The outcome is the share of held-out puzzles, of grids that training never saw, that averaged weights do not
    solve exactly after the last segment allowed.
    """
    model = HRM(_CONFIG)
    model.load_state_dict(_start())
    torch.manual_seed(seed)
    puzzles, supervision, ema = _puzzles(), _supervised(model), WeightEMA(model, 0.98)
    optimizer = _optimizer(model)
    schedule = partial(_share, warm_up=20, num_steps=num_steps)

    def loss(given: nn.Module, batch: Batch) -> Tensor:
        assert given is model
        return supervision(model, batch)

    def outcome() -> float:
        with ema.swapped_in(model):
            return 1.0 - evaluate(model, puzzles.held_out).exact_accuracy

    return PuzzleRun(
        model=model, optimizer=optimizer, loader=puzzles.loader(seed), loss=loss, outcome=outcome,
        scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, schedule), num_steps=num_steps, max_norm=1.0, ema=ema,
        supervision=supervision,
        controls={
            "halting_threshold": HaltingSetting(model, "threshold"),
            "halting_exploration": HaltingSetting(model, "exploration"),
        },
    )  # fmt: skip
