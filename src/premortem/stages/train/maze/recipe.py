"""HRM on mazes: sizes, recipe, and one function from mazes to a trained model in a checkpoint bundle."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path as FilePath

import torch

from premortem.core.errors import ConfigError
from premortem.stages.train.ema import WeightEMA
from premortem.stages.train.hrm import HRM, DeepSupervision, HRMConfig, Recipe, to_batch
from premortem.stages.train.hrm.card import save_model
from premortem.stages.train.hrm.config import small_config
from premortem.stages.train.maze.dataset import MazeConfig, Mazes, MazeSplit
from premortem.stages.train.maze.grid import VOCABULARY
from premortem.stages.train.maze.paths import is_shortest, is_solved

Progress = Callable[[int, HRM], None]


def maze_config(size: int) -> HRMConfig:
    """A small model for mazes with ``size`` cells on a side, 5 or 7."""
    if size not in _CONFIGS:
        raise ConfigError(f"maze size {size}: expected one of {sorted(_CONFIGS)}; choose one of them")
    return _CONFIGS[size]


def maze_recipe(size: int) -> Recipe:
    """How it is trained; tuned on two cores."""
    if size not in _RECIPES:
        raise ConfigError(f"maze size {size}: expected one of {sorted(_RECIPES)}; choose one of them")
    return _RECIPES[size]


def maze_data(size: int) -> MazeConfig:
    """The mazes of the benchmarks: HRM and PPO learn from the same ones and are judged by the same ones."""
    if size not in _DATA:
        raise ConfigError(f"maze size {size}: expected one of {sorted(_DATA)}; choose one of them")
    return _DATA[size]


def _small(size: int, hidden: int) -> HRMConfig:
    small = small_config(size * size, VOCABULARY, hidden, max_segments=4)
    return replace(small, high_layers=1, low_layers=1, gradient="segment")


_CONFIGS = {5: _small(5, 64), 7: _small(7, 96)}
_RECIPES = {5: Recipe(steps=3600, weight_decay=0.3), 7: Recipe(steps=4000, weight_decay=0.3)}
_DATA = {
    5: MazeConfig(5, train_layouts=1500, held_out_layouts=200, min_length=1, unique=True),
    7: MazeConfig(7, train_layouts=3000, held_out_layouts=200, min_length=1, unique=True),
}
_FASTEST = 0.5 * math.pi
"""Radians a cell of the fastest wave: slow enough that near cells look alike."""


def lay_out_positions(model: HRM) -> None:
    """Let learned positions begin as waves over rows and columns; all of them are trained.

    Drawn at random, as HRM has them, they hide that the cells of a maze lie on a square. Raises :class:`ConfigError`
    for a model without learned positions, or whose channels are no multiple of 4.
    """
    config, learned = model.config, model.embedding.positions
    if learned is None or config.hidden_size % 4:
        raise ConfigError(
            f"HRM with {config.positions} positions and {config.hidden_size} channels: expected learned positions and "
            "a multiple of 4 channels; change HRMConfig"
        )
    size, waves = round(config.seq_len**0.5), config.hidden_size // 4
    angle = torch.outer(torch.arange(size), torch.arange(1, waves + 1) / waves * _FASTEST)
    line = torch.cat((angle.sin(), angle.cos()), dim=1)
    both = torch.cat((line[:, None].expand(size, size, -1), line[None].expand(size, size, -1)), dim=2)
    with torch.no_grad():  # the scale of the random ones: a mean square of 1 / channels
        learned[1:] = both.flatten(0, 1) * (2 / config.hidden_size) ** 0.5


@dataclass(frozen=True, eq=False)
class TrainedHRM:
    """A model that holds its averaged weights, and what it cost: seconds of wall and of CPU (all threads)."""

    model: HRM
    steps: int
    wall_s: float
    cpu_s: float


def train_hrm(
    split: MazeSplit,
    *,
    config: HRMConfig | None = None,
    recipe: Recipe | None = None,
    seed: int = 0,
    minutes: float = 10.0,
    watch: Progress | None = None,
) -> TrainedHRM:
    """Train on ``split.train``, turned and mirrored, until the recipe's steps are done or the minutes have passed.

    Args:
        split: of one size; what is held out is not looked at.
        config: sizes of the model; :func:`maze_config` of the split's size where ``None``.
        recipe: :func:`maze_recipe` of the split's size where ``None``.
        seed: of weights, order and exploration.
        minutes: of wall time at most.
        watch: called after each step with its number and the model; its time is not counted.
    """
    recipe = recipe or maze_recipe(split.train.size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = HRM(config or maze_config(split.train.size))
        lay_out_positions(model)
        stream = split.batches(recipe.batch_size, seed)
        supervision = DeepSupervision(model, to_batch(*stream.batch(0)))
        optimizer, ema = recipe.build_optimizer(model), WeightEMA(model, recipe.ema_decay)
        start, start_cpu, step = time.perf_counter(), time.process_time(), 0
        while step < recipe.steps and time.perf_counter() - start < 60 * minutes:
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * recipe.rate_factor(step, step / recipe.steps)
            torch.autograd.backward(supervision(model, to_batch(*stream.batch(step))))
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_gradient_norm)
            optimizer.step()
            optimizer.zero_grad()
            supervision.commit()
            ema.update(model)
            step += 1
            if watch is not None:
                before, before_cpu = time.perf_counter(), time.process_time()
                with ema.swapped_in(model):
                    watch(step, model)
                start += time.perf_counter() - before
                start_cpu += time.process_time() - before_cpu
    wall_s, cpu_s = time.perf_counter() - start, time.process_time() - start_cpu
    averages = ema.state_dict()["averages"]
    model.load_state_dict({**model.state_dict(), **averages})
    return TrainedHRM(model.eval(), step, wall_s, cpu_s)


def save_hrm(folder: FilePath, trained: TrainedHRM) -> FilePath:
    """A checkpoint bundle with a card, so that it can be served from it alone; returns the bundle's folder.

    Raises StageError for every failure of the disk.
    """
    model = trained.model
    return save_model(folder, trained.steps, model, task="maze", size=round(model.config.seq_len**0.5))


@dataclass(frozen=True)
class MazeScore:
    """Shares of mazes, 0..1, of a set of answers."""

    num_mazes: int
    solved: float
    """The answer marks a path from start to goal."""
    shortest: float
    """It marks a shortest one."""


def score(mazes: Mazes, answers: list[bytes]) -> MazeScore:
    """Judge one answer a maze; raises :class:`ConfigError` for no maze: nothing can be said about none."""
    if not answers:
        raise ConfigError("score over 0 mazes: expected at least 1; nothing can be said about none")
    pairs = list(zip(mazes, answers, strict=True))
    solved = sum(is_solved(maze, answer) for maze, answer in pairs)
    shortest = sum(is_shortest(maze, answer) for maze, answer in pairs)
    return MazeScore(len(pairs), solved / len(pairs), shortest / len(pairs))


@torch.no_grad()
def answer_with_hrm(model: HRM, mazes: Mazes, segments: int = 0) -> list[bytes]:
    """The model's answers as a service gives them: each where the model halts, after ``segments`` at the latest.

    0 takes the model's own limit. Nothing is explored.
    """
    was_training = model.training
    model.eval()
    inputs = torch.from_numpy(mazes.mazes)
    carry = model.initial_carry({"inputs": inputs, "labels": inputs})
    z_high, z_low = carry.z_high, carry.z_low
    tokens = torch.zeros_like(inputs)
    running = torch.ones(len(inputs), dtype=torch.bool)
    for _ in range(segments or model.halting.max_segments):
        segment = model.segment(z_high, z_low, inputs)
        z_high, z_low = segment.z_high, segment.z_low
        tokens = torch.where(running[:, None], segment.logits.argmax(-1), tokens)
        running = running & ~model.wants_halt(segment)
    model.train(was_training)
    return [bytes(row) for row in tokens.tolist()]
