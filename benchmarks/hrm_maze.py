"""HRM on mazes, trained from scratch: how many held-out mazes it answers with a path, and with a shortest one.

    python benchmarks/hrm_maze.py --size 5 --seeds 3 --minutes 10
    python benchmarks/hrm_maze.py --size 5 --seeds 1 --save checkpoints/maze

Every maze scored lies in a layout of walls that training never saw, turned and mirrored neither. Any shortest path is
right. Bound, size 5 only: every seed answers at least 90 % with a shortest path after at most 10 minutes of CPU time
(a busy machine favours nobody), or the exit code is 1. ``--save`` leaves each model as a checkpoint bundle.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import torch

from premortem.stages.train.hrm import HRM, evaluate, to_batch
from premortem.stages.train.maze import (
    FREE,
    Difficulty,
    Mazes,
    MazeSplit,
    count_shortest_paths,
    gather,
    make_split,
    place_ends,
)
from premortem.stages.train.maze.recipe import (
    MazeScore,
    TrainedHRM,
    answer_with_hrm,
    maze_data,
    maze_recipe,
    save_hrm,
    score,
    train_hrm,
)
from seeded import report, seeds_of, seeds_parser

BOUND_SHORTEST = 0.90
BOUND_MINUTES = 10.0
DEPTHS = (1, 2)


@dataclass(frozen=True)
class Run:
    """What one seed gave; shares are of held-out mazes."""

    seed: int
    parameters: int
    steps: int
    planned_steps: int
    wall_minutes: float
    cpu_minutes: float
    as_served: MazeScore
    """Each answer where the model halts by itself, at its limit otherwise."""
    at_depth: dict[int, MazeScore]
    """After fewer segments than the limit: what the control "reduce computation depth" costs."""
    by_difficulty: dict[str, float]
    """Share answered with a shortest path."""
    tied: MazeScore
    """Held-out layouts again, but with ends that several shortest paths join, which training has none of."""
    mean_halt_segment: float

    @property
    def within_bound(self) -> bool:
        return self.as_served.shortest >= BOUND_SHORTEST and self.cpu_minutes <= BOUND_MINUTES


def part_of(mazes: Mazes, level: int) -> Mazes:
    return gather([maze for maze, at in zip(mazes, mazes.difficulty, strict=True) if at == level])


def tied_mazes(split: MazeSplit) -> Mazes:
    """Other ends in the held-out layouts, joined by several shortest paths."""
    rng = Random(0)
    found: dict[bytes, None] = {}
    for maze in split.held_out:
        layout = bytes(min(token, FREE) for token in maze)
        for _ in range(8):
            drawn = place_ends(layout, 3, rng)
            if drawn is not None and count_shortest_paths(drawn) > 1:
                found[drawn] = None
                break
    return gather(list(found))


def run_seed(seed: int, arguments: argparse.Namespace) -> Run:
    split = make_split(replace(maze_data(arguments.size), seed=seed))
    print(f"seed {seed}: {len(split.train)} training, {len(split.held_out)} held-out mazes", file=sys.stderr)
    recipe = maze_recipe(arguments.size)
    recipe = replace(recipe, steps=arguments.steps or recipe.steps)

    def watch(step: int, model: HRM) -> None:
        if arguments.curve and step % arguments.curve == 0:
            got = score(split.held_out, answer_with_hrm(model, split.held_out))
            print(f"  {step} {time.process_time() / 60:.2f} CPU min {got}", file=sys.stderr, flush=True)

    trained = train_hrm(split, recipe=recipe, seed=seed, minutes=arguments.minutes, watch=watch)
    if arguments.save:
        print(f"  saved {save_hrm(Path(arguments.save) / f'seed-{seed}', trained)}", file=sys.stderr)
    return judge(seed, split, trained, recipe.steps)


def judge(seed: int, split: MazeSplit, trained: TrainedHRM, planned: int) -> Run:
    model, held_out, tied = trained.model, split.held_out, tied_mazes(split)
    levels = sorted(set(held_out.difficulty.tolist()))
    parts = {level: part_of(held_out, level) for level in levels}
    return Run(
        seed=seed,
        parameters=model.num_parameters,
        steps=trained.steps,
        planned_steps=planned,
        wall_minutes=trained.wall_s / 60,
        cpu_minutes=trained.cpu_s / 60,
        as_served=score(held_out, answer_with_hrm(model, held_out)),
        at_depth={depth: score(held_out, answer_with_hrm(model, held_out, depth)) for depth in DEPTHS},
        by_difficulty={
            f"{Difficulty(level).name} ({len(part)})": score(part, answer_with_hrm(model, part)).shortest
            for level, part in parts.items()
        },
        tied=score(tied, answer_with_hrm(model, tied)),
        mean_halt_segment=evaluate(model, to_batch(held_out.mazes, held_out.answers)).mean_halt_segment,
    )


def table(runs: list[Run]) -> list[str]:
    lines = [
        "| seed | parameters | steps | wall min | CPU min | solved | shortest | shortest at depth 1, 2"
        " | mean halt segment | several shortest paths: shortest |",
        "|" + "---|" * 10,
    ]
    for run in runs:
        depths = ", ".join(f"{run.at_depth[depth].shortest:.1%}" for depth in DEPTHS)
        lines.append(
            f"| {run.seed} | {run.parameters:,} | {run.steps}/{run.planned_steps} | {run.wall_minutes:.2f}"
            f" | {run.cpu_minutes:.2f} | {run.as_served.solved:.1%} | {run.as_served.shortest:.1%} | {depths}"
            f" | {run.mean_halt_segment:.2f} | {run.tied.shortest:.1%} of {run.tied.num_mazes} |"
        )
    return lines + [f"seed {run.seed} shortest by difficulty (mazes): {run.by_difficulty}" for run in runs]


def parse() -> argparse.Namespace:
    parser = seeds_parser("HRM on mazes", BOUND_MINUTES)
    parser.add_argument("--size", type=int, choices=[5, 7], default=5, help="cells on a side, inside the outer walls")
    parser.add_argument("--steps", type=int, default=0, help="planned steps; 0 takes the recipe's")
    parser.add_argument("--curve", type=int, default=0, help="evaluate every so many steps")
    parser.add_argument("--threads", type=int, default=1, help="2 is slower than 1 on a busy machine")
    parser.add_argument("--save", default="", help="folder for one checkpoint bundle a seed")
    return parser.parse_args()


def main() -> int:
    """Run every seed, print the table or JSON; 1 when the bound of size 5 is missed."""
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    runs = [run_seed(seed, arguments) for seed in seeds_of(arguments)]
    bound = f">= {BOUND_SHORTEST:.0%} in <= {BOUND_MINUTES:.0f} CPU min" if arguments.size == 5 else ""
    return report(runs, table(runs), bound, arguments)


if __name__ == "__main__":
    sys.exit(main())
