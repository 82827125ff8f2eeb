"""The PPO fallback on mazes, beside a random walker and, when given its bundle, beside HRM.

    python benchmarks/ppo_maze.py --size 5 --seeds 3
    python benchmarks/ppo_maze.py --size 5 --seeds 3 --hrm checkpoints/maze --save checkpoints/ppo

Trained on the same training mazes as HRM of the same seed, scored on the same held-out ones. The random walker goes by
the same rule (no cell twice), so what it reaches is what the rule alone is worth. Bound: every seed of PPO reaches the
goal in at least 80 % of held-out mazes after at most 10 minutes of CPU time, or the exit code is 1.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import torch

from premortem.stages.train.checkpoint import load_bundle
from premortem.stages.train.hrm import HRM
from premortem.stages.train.hrm.card import read_card
from premortem.stages.train.maze import Mazes, make_split
from premortem.stages.train.maze.recipe import (
    MazeScore,
    answer_with_hrm,
    maze_data,
    score,
)
from premortem.stages.train.ppo import PPOPolicy, Walk, Walker
from premortem.stages.train.ppo.training import train_ppo
from seeded import report, seeds_of, seeds_parser

BOUND_SOLVED = 0.80
BOUND_MINUTES = 10.0
_TIMED = 200


@dataclass(frozen=True)
class Run:
    """What one seed gave; shares are of held-out mazes."""

    seed: int
    mazes: int
    parameters: int
    timesteps: int
    wall_minutes: float
    cpu_minutes: float
    ppo: MazeScore
    walked_shortest: float
    """Share in which the walk itself was a shortest one, no short cut cut afterwards."""
    random: MazeScore
    hrm: MazeScore | None
    answer_ms: float
    """Median time of one answer to one maze."""

    @property
    def within_bound(self) -> bool:
        return self.ppo.solved >= BOUND_SOLVED and self.cpu_minutes <= BOUND_MINUTES


def random_walk(maze: bytes, rng: Random) -> Walk:
    walker = Walker(maze)
    while not walker.reached and (moves := walker.open_moves()):
        walker.step(rng.choice(moves))
    return walker.walk()


def judge(mazes: Mazes, walks: list[Walk]) -> MazeScore:
    return score(mazes, [walk.tokens for walk in walks])


def answer_ms(policy: PPOPolicy, mazes: Mazes) -> float:
    taken = []
    for maze in list(mazes)[:_TIMED]:
        start = time.perf_counter()
        policy.solve(maze)
        taken.append(time.perf_counter() - start)
    return 1e3 * statistics.median(taken)


def hrm_of(folder: Path, seed: int) -> HRM:
    """The model of this seed, from where ``hrm_maze.py --save`` left it."""
    bundles = sorted(folder.glob(f"seed-{seed}/step-*"))
    if not bundles:
        raise SystemExit(f"{folder}: found no seed-{seed}/step-*, expected what hrm_maze.py --save left")
    model = HRM(read_card(bundles[-1]).config)
    weights = load_bundle(bundles[-1], fits={"model": model.state_dict()})["model"]
    assert isinstance(weights, dict)
    model.load_state_dict(weights)
    return model


def run_seed(seed: int, arguments: argparse.Namespace) -> Run:
    split = make_split(replace(maze_data(arguments.size), seed=seed))
    held_out = split.held_out
    trained = train_ppo(split.train, seed=seed, minutes=arguments.minutes)
    walks, rng = trained.policy.solve_all(list(held_out)), Random(seed)
    direct = sum(walk.reached and walk.steps == int(n) for walk, n in zip(walks, held_out.lengths, strict=True))
    if arguments.save:
        file = Path(arguments.save) / f"seed-{seed}.safetensors"
        print(f"saved {file}, weights {trained.policy.save(file)}", file=sys.stderr)
    hrm = None
    if arguments.hrm:
        hrm = score(held_out, answer_with_hrm(hrm_of(Path(arguments.hrm), seed), held_out))
    return Run(
        seed=seed,
        mazes=len(held_out),
        parameters=sum(weight.numel() for weight in trained.policy.net.parameters()),
        timesteps=trained.timesteps,
        wall_minutes=trained.wall_s / 60,
        cpu_minutes=trained.cpu_s / 60,
        ppo=judge(held_out, walks),
        walked_shortest=direct / len(walks),
        random=judge(held_out, [random_walk(maze, rng) for maze in held_out]),
        hrm=hrm,
        answer_ms=answer_ms(trained.policy, held_out),
    )


def table(runs: list[Run]) -> list[str]:
    lines = [
        "| seed | mazes | parameters | moves | wall min | CPU min | PPO solved | PPO shortest | walked shortest"
        " | random solved | random shortest | HRM solved | HRM shortest | ms an answer |",
        "|" + "---|" * 14,
    ]
    for run in runs:
        hrm = f"{run.hrm.solved:.1%} | {run.hrm.shortest:.1%}" if run.hrm else "not given | not given"
        lines.append(
            f"| {run.seed} | {run.mazes} | {run.parameters:,} | {run.timesteps:,} | {run.wall_minutes:.2f}"
            f" | {run.cpu_minutes:.2f} | {run.ppo.solved:.1%} | {run.ppo.shortest:.1%} | {run.walked_shortest:.1%}"
            f" | {run.random.solved:.1%} | {run.random.shortest:.1%} | {hrm} | {run.answer_ms:.1f} |"
        )
    return lines


def parse() -> argparse.Namespace:
    parser = seeds_parser("PPO on mazes beside a random walker and HRM", BOUND_MINUTES)
    parser.add_argument("--size", type=int, choices=[5, 7], default=5, help="cells on a side, inside the outer walls")
    parser.add_argument("--hrm", default="", help="folder that hrm_maze.py --save left, one HRM a seed")
    parser.add_argument("--save", default="", help="folder for one policy file a seed")
    return parser.parse_args()


def main() -> int:
    """Run every seed, print the table or JSON; 1 when the bound is missed."""
    arguments = parse()
    torch.set_num_threads(1)
    runs = [run_seed(seed, arguments) for seed in seeds_of(arguments)]
    return report(runs, table(runs), f">= {BOUND_SOLVED:.0%} in <= {BOUND_MINUTES:.0f} CPU min", arguments)


if __name__ == "__main__":
    sys.exit(main())
