"""A tiny pair for drills and tests: an HRM in a checkpoint bundle and its PPO fallback, trained on the same 5x5 mazes.

The fallback is trained by the benchmarks' own recipe and good at its task. The HRM is smaller than theirs and its
training stops early, so it is a real model with real costs that is often wrong. ``docs/ppo.md`` has the figures. Needs
the extra ``rl``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from premortem.stages.train.hrm import HRMConfig
from premortem.stages.train.maze.dataset import MazeConfig, Mazes, make_split
from premortem.stages.train.maze.recipe import maze_config, maze_recipe, save_hrm, train_hrm

SMALL_DATA = MazeConfig(5, train_layouts=400, held_out_layouts=100, min_length=1, unique=True)
SMALL_CONFIG: HRMConfig = replace(maze_config(5), hidden_size=48, high_layers=1, low_layers=1)


@dataclass(frozen=True, slots=True)
class SmallPair:
    """What a service needs to answer mazes, and mazes to ask it.

    Attributes:
        bundle: of the HRM, for ``Reasoner(pair.bundle, pair.config)``.
        config: of the HRM.
        policy: file of the fallback, for ``PPOPolicy.load(pair.policy)``.
        held_out: mazes of layouts that neither saw.
    """

    bundle: Path
    config: HRMConfig
    policy: Path
    held_out: Mazes


def small_pair(folder: Path, *, seed: int = 0, hrm_steps: int = 200) -> SmallPair:
    """Train both and leave them in ``folder``.

    Args:
        folder: made where missing; gets ``hrm/step-*`` and ``ppo.safetensors``.
        seed: of weights, order and exploration; the mazes are always the same.
        hrm_steps: how long the HRM trains; 1 gives a model that answers nonsense at once.

    Raises:
        StageError: for every failure of the disk.
    """
    from premortem.stages.train.ppo.training import train_ppo  # the extra `rl`, needed here alone

    split = make_split(SMALL_DATA)
    recipe = replace(maze_recipe(5), steps=hrm_steps, batch_size=32, learning_rate=5e-3, warmup_steps=50)
    trained = train_hrm(split, config=SMALL_CONFIG, recipe=recipe, seed=seed)
    bundle = save_hrm(folder / "hrm", trained)
    policy = folder / "ppo.safetensors"
    train_ppo(split.train, seed=seed).policy.save(policy)
    return SmallPair(bundle, SMALL_CONFIG, policy, split.held_out)
