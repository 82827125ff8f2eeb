"""How the policy of each size is trained; names are those of stable-baselines3's PPO."""

from __future__ import annotations

from dataclasses import dataclass, field

from premortem.core.errors import ConfigError
from premortem.stages.train.ppo.network import WalkNetConfig


@dataclass(frozen=True)
class PPORecipe:
    """One training. ``n_envs`` * ``n_steps`` moves are walked between two updates."""

    total_timesteps: int
    net: WalkNetConfig = field(default_factory=WalkNetConfig)
    n_envs: int = 64
    n_steps: int = 32
    batch_size: int = 256
    n_epochs: int = 3
    learning_rate: float = 2e-3
    """At the start; falls linearly to ``final_share`` of it."""
    final_share: float = 0.05
    gamma: float = 0.95
    gae_lambda: float = 0.9
    ent_coef: float = 0.01
    max_grad_norm: float = 0.5


_RECIPES = {
    5: PPORecipe(40_960, WalkNetConfig(channels=16, rounds=10)),
    7: PPORecipe(102_400, WalkNetConfig(channels=16, rounds=16)),
}


def ppo_recipe(size: int) -> PPORecipe:
    """The recipe for mazes with ``size`` cells on a side, 5 or 7; tuned on two cores."""
    if size not in _RECIPES:
        raise ConfigError(f"maze size {size}: expected one of {sorted(_RECIPES)}; choose one of them")
    return _RECIPES[size]
