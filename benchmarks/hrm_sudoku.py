"""HRM on Sudoku, trained from scratch, beside a plain transformer and a nearest-puzzle lookup.

    python benchmarks/hrm_sudoku.py --size 4 --seeds 3 --minutes 10
    python benchmarks/hrm_sudoku.py --size 6 --curve 250
    python benchmarks/hrm_sudoku.py --size 9 --device cuda [--paper]

Every puzzle scored has a solution grid that training never saw. The plain transformer has the same blocks and the same
training cost: CPU seconds on a CPU (a busy machine favours neither), wall seconds elsewhere. Bound, size 4 only: every
seed solves at least 95 % exactly within 10 minutes of wall time, or the exit code is 1.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from premortem.stages.train.ema import WeightEMA
from premortem.stages.train.hrm import (
    HRM,
    PAPER_SUDOKU,
    Batch,
    DeepSupervision,
    Evaluation,
    HRMConfig,
    PlainTransformer,
    Recipe,
    Score,
    evaluate,
    lookup_score,
    sudoku_config,
    sudoku_recipe,
    to_batch,
)
from premortem.stages.train.hrm.card import save_model
from premortem.stages.train.sudoku import Difficulty, Puzzles, SudokuConfig, SudokuSplit, make_split
from seeded import report, seeds_of, seeds_parser

BOUND_EXACT = 0.95
BOUND_MINUTES = 10.0

DATA = {
    4: SudokuConfig(4, 240, 48, puzzles_per_grid=32, held_out_puzzles_per_grid=8, clues=(0, 10)),
    6: SudokuConfig(size=6, train_grids=1000, held_out_grids=100, puzzles_per_grid=4, clues=(0, 26)),
    9: SudokuConfig(size=9, train_grids=1000, held_out_grids=200, puzzles_per_grid=2, held_out_puzzles_per_grid=1),
}
CLASS_DATA = {
    4: replace(DATA[4], train_grids=192, held_out_grids=96, split="class"),
    6: replace(DATA[6], split="class"),
}


@dataclass(frozen=True)
class Point:
    """One evaluation on the way, with averaged weights."""

    step: int
    wall_minutes: float
    held_out: Evaluation


@dataclass(frozen=True)
class Run:
    """What one seed gave; accuracies are shares of held-out puzzles."""

    seed: int
    parameters: int
    steps: int
    planned_steps: int
    wall_minutes: float
    cost_minutes: float
    hrm: Evaluation
    hrm_by_difficulty: dict[str, float]
    plain_steps: int
    plain: Score
    lookup: Score
    curve: list[Point]

    @property
    def within_bound(self) -> bool:
        return self.hrm.exact_accuracy >= BOUND_EXACT and self.wall_minutes <= BOUND_MINUTES


@dataclass(frozen=True)
class Setting:
    """What all seeds of a call share."""

    size: int
    config: HRMConfig
    recipe: Recipe
    data: SudokuConfig
    device: str
    minutes: float
    curve_every: int
    save: str = ""
    """Folder for one bundle a seed; empty keeps none."""


@dataclass(frozen=True, eq=False)
class Trained:
    """What a training leaves behind besides the model's weights."""

    ema: WeightEMA
    wall_s: float
    cost_s: float
    steps: int
    curve: list[Point]


class Budget:
    """Wall and cost seconds of training alone; evaluation in between is forgotten."""

    def __init__(self, device: str) -> None:
        self._clocks = (time.perf_counter, time.process_time if device == "cpu" else time.perf_counter)
        self._start = self.spent()

    def spent(self) -> tuple[float, float]:
        return self._clocks[0](), self._clocks[1]()

    def forget_since(self, before: tuple[float, float]) -> None:
        now = self.spent()
        self._start = (self._start[0] + now[0] - before[0], self._start[1] + now[1] - before[1])

    @property
    def wall(self) -> float:
        return self.spent()[0] - self._start[0]

    @property
    def cost(self) -> float:
        return self.spent()[1] - self._start[1]


def batches(split: SudokuSplit, setting: Setting, seed: int) -> Iterator[Batch]:
    stream, step = split.batches(setting.recipe.batch_size, seed), 0
    while True:
        yield to_batch(*stream.batch(step), setting.device)
        step += 1


def as_batch(puzzles: Puzzles, device: str) -> Batch:
    return to_batch(puzzles.puzzles, puzzles.solutions, device)


def train(model: HRM | PlainTransformer, setting: Setting, split: SudokuSplit, seed: int, cost_s: float) -> Trained:
    """Train until ``cost_s`` is spent, or for the recipe's steps where that is infinite (HRM, which sets the cost)."""
    recipe, held_out = setting.recipe, as_batch(split.held_out, setting.device)
    optimizer, ema = recipe.build_optimizer(model), WeightEMA(model, recipe.ema_decay)
    objective = objective_of(model, next(batches(split, setting, seed)))
    curve: list[Point] = []
    budget, step = Budget(setting.device), 0
    for step, batch in enumerate(batches(split, setting, seed), start=1):
        with torch.autocast(setting.device, torch.bfloat16, enabled=setting.device == "cuda"):
            loss = objective(batch)
        progress = step / recipe.steps if math.isinf(cost_s) else budget.cost / cost_s
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_gradient_norm)
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * recipe.rate_factor(step - 1, progress)
        optimizer.step()
        ema.update(model)
        if isinstance(model, HRM) and setting.curve_every and step % setting.curve_every == 0:
            before = budget.spent()
            with ema.swapped_in(model):
                curve.append(Point(step, budget.wall / 60, evaluate(model, held_out)))
            print(f"  {step} {budget.wall / 60:.2f} min {curve[-1].held_out}", file=sys.stderr, flush=True)
            budget.forget_since(before)
        if progress >= 1 or budget.wall > 60 * setting.minutes:
            break
    return Trained(ema, budget.wall, budget.cost, step, curve)


def objective_of(model: HRM | PlainTransformer, first: Batch) -> Callable[[Batch], Tensor]:
    if isinstance(model, PlainTransformer):
        return model.loss
    supervision = DeepSupervision(model, first)

    def segment_loss(batch: Batch) -> Tensor:
        loss = supervision(model, batch)
        supervision.commit()
        return loss

    return segment_loss


def by_difficulty(model: HRM, puzzles: Puzzles, device: str) -> dict[str, float]:
    shares = {}
    for level in sorted(set(puzzles.difficulty.tolist())):
        rows = puzzles.difficulty == level
        part = to_batch(puzzles.puzzles[rows], puzzles.solutions[rows], device)
        shares[f"{Difficulty(level).name} ({rows.sum()})"] = evaluate(model, part).exact_accuracy
    return shares


def run_seed(setting: Setting, seed: int) -> Run:
    split = make_split(replace(setting.data, seed=seed))
    held_out = as_batch(split.held_out, setting.device)
    print(f"seed {seed}: {len(split.train)} training, {len(split.held_out)} held-out puzzles", file=sys.stderr)
    torch.manual_seed(seed)
    model = HRM(setting.config).to(setting.device)
    plain = PlainTransformer(setting.config).to(setting.device)
    trained = train(model, setting, split, seed, math.inf)
    plain_trained = train(plain, setting, split, seed, trained.cost_s)
    with plain_trained.ema.swapped_in(plain):
        plain_score = plain.score(held_out)
    with trained.ema.swapped_in(model):
        found, levels = evaluate(model, held_out), by_difficulty(model, split.held_out, setting.device)
        if setting.save:
            folder = Path(setting.save) / f"seed-{seed}"
            bundle = save_model(folder, trained.steps, model, task="sudoku", size=setting.size)
            print(f"  saved {bundle}", file=sys.stderr)
    return Run(
        seed=seed,
        parameters=model.num_parameters,
        steps=trained.steps,
        planned_steps=setting.recipe.steps,
        wall_minutes=trained.wall_s / 60,
        cost_minutes=trained.cost_s / 60,
        hrm=found,
        hrm_by_difficulty=levels,
        plain_steps=plain_trained.steps,
        plain=plain_score,
        lookup=lookup_score(as_batch(split.train, setting.device), held_out),
        curve=trained.curve,
    )


def row(run: Run) -> str:
    hrm, plain, lookup = run.hrm, run.plain, run.lookup
    return (
        f"| {run.seed} | {run.parameters:,} | {run.steps}/{run.planned_steps} | {run.wall_minutes:.2f}"
        f" | {run.cost_minutes:.2f} | {hrm.exact_accuracy:.1%} | {hrm.cell_accuracy:.1%} | {hrm.exact_at_halt:.1%}"
        f" | {hrm.mean_halt_segment:.2f} | {run.plain_steps} | {plain.exact:.1%} | {plain.cells:.1%}"
        f" | {lookup.exact:.1%} | {lookup.cells:.1%} |"
    )


def table(runs: list[Run]) -> list[str]:
    lines = [
        "| seed | parameters | steps | wall min | cost min | HRM exact | HRM cells | exact at halt | mean halt segment"
        " | plain steps | plain exact | plain cells | lookup exact | lookup cells |",
        "|" + "---|" * 14,
    ]
    lines += [row(run) for run in runs]
    return lines + [f"seed {run.seed} exact by difficulty (puzzles): {run.hrm_by_difficulty}" for run in runs]


def parse() -> argparse.Namespace:
    parser = seeds_parser("HRM on Sudoku beside its baselines", BOUND_MINUTES)
    parser.add_argument("--size", type=int, choices=sorted(DATA), default=4)
    parser.add_argument("--steps", type=int, default=0, help="planned steps; 0 takes the recipe's")
    parser.add_argument("--by-class", action="store_true", help="hold out whole symmetry classes")
    parser.add_argument("--curve", type=int, default=0, help="evaluate every so many steps")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--paper", action="store_true", help="size 9 only: the 27 M parameter model")
    parser.add_argument("--save", default="", help="folder for one checkpoint bundle a seed, as premortem infer serves")
    parser.add_argument("--threads", type=int, default=1, help="2 is slower than 1 on a busy machine")
    arguments = parser.parse_args()
    if (arguments.size == 9 and arguments.by_class) or (arguments.size != 9 and arguments.paper):
        parser.error(f"--size {arguments.size}: --by-class is for sizes 4 and 6, --paper for size 9")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: no CUDA device found; use --device cpu, or run where there is one")
    return arguments


def main() -> int:
    """Run every seed, print the table or JSON; 1 when the bound of size 4 is missed."""
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    recipe = sudoku_recipe(arguments.size)
    setting = Setting(
        size=arguments.size,
        config=PAPER_SUDOKU if arguments.paper else sudoku_config(arguments.size),
        recipe=replace(recipe, steps=arguments.steps or recipe.steps),
        data=CLASS_DATA[arguments.size] if arguments.by_class else DATA[arguments.size],
        device=arguments.device,
        minutes=arguments.minutes,
        curve_every=arguments.curve,
        save=arguments.save,
    )
    runs = [run_seed(setting, seed) for seed in seeds_of(arguments)]
    has_bound = setting.size == 4 and setting.data.split == "grid"
    bound = f">= {BOUND_EXACT:.0%} in <= {BOUND_MINUTES:.0f} min" if has_bound else ""
    return report(runs, table(runs), bound, arguments)


if __name__ == "__main__":
    sys.exit(main())
