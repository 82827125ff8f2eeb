"""PPO of stable-baselines3 over the maze environment, and the export of what it learned."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import Any

import gymnasium
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor, nn

from premortem.stages.train.maze import MOVES, Mazes
from premortem.stages.train.ppo.environment import MazeWalk
from premortem.stages.train.ppo.network import WalkNet, WalkNetConfig
from premortem.stages.train.ppo.policy import PPOPolicy
from premortem.stages.train.ppo.recipe import PPORecipe, ppo_recipe


class WholeNet(BaseFeaturesExtractor):
    """The whole of :class:`WalkNet` where SB3 expects features: four logits and a value."""

    def __init__(self, observation_space: gymnasium.spaces.Box, net: WalkNetConfig) -> None:
        super().__init__(observation_space, len(MOVES) + 1)
        self.net = WalkNet(net)

    def forward(self, views_BC: Tensor) -> Tensor:
        """(B, C) to (B, 5)."""
        logits, value = self.net(views_BC)
        return torch.cat((logits, value[:, None]), dim=1)


class _Columns(nn.Module):
    """Some columns of the features."""

    def __init__(self, first: int, end: int) -> None:
        super().__init__()
        self._first, self._end = first, end

    def forward(self, features: Tensor) -> Tensor:
        return features[:, self._first : self._end]


class WalkPolicy(ActorCriticPolicy):
    """SB3's actor-critic with its own heads replaced: the net gives logits and value itself, moves masked."""

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        self.add_module("action_net", _Columns(0, len(MOVES)))
        self.add_module("value_net", _Columns(len(MOVES), len(MOVES) + 1))
        self.optimizer = torch.optim.Adam(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)


class _Limit(BaseCallback):
    """Ends training at a time of ``time.perf_counter``."""

    def __init__(self, end: float) -> None:
        super().__init__()
        self._end = end

    def _on_step(self) -> bool:
        return time.perf_counter() < self._end


@dataclass(frozen=True, eq=False)
class TrainedPPO:
    """The exported policy, SB3's own object, and what it cost: seconds of wall and of CPU (all threads).

    The cost is of all that the mazes and the recipe bring about: environments, training, export.
    """

    policy: PPOPolicy
    agent: PPO
    timesteps: int
    wall_s: float
    cpu_s: float


def train_ppo(mazes: Mazes, recipe: PPORecipe | None = None, *, seed: int = 0, minutes: float = 10.0) -> TrainedPPO:
    """Train on ``mazes``, turned and mirrored, until the recipe's steps are done or the minutes have passed.

    ``recipe`` is :func:`ppo_recipe` of the mazes' size where ``None``. torch's global stream is put back afterwards;
    SB3 seeds it, numpy's and Python's, which are the caller's to mind.
    """
    recipe = recipe or ppo_recipe(mazes.size)
    start, start_cpu = time.perf_counter(), time.process_time()
    with torch.random.fork_rng(devices=[]):
        agent = make_agent(mazes, recipe, seed)
        agent.learn(recipe.total_timesteps, callback=_Limit(start + 60 * minutes))
    origin = {"seed": str(seed), "mazes": str(len(mazes)), "size": str(mazes.size), "steps": str(agent.num_timesteps)}
    return TrainedPPO(
        export(agent, origin),
        agent,
        agent.num_timesteps,
        time.perf_counter() - start,
        time.process_time() - start_cpu,
    )


def make_agent(mazes: Mazes, recipe: PPORecipe, seed: int) -> PPO:
    """An untrained agent of stable-baselines3."""
    theirs = ("n_steps", "batch_size", "n_epochs", "gamma", "gae_lambda", "ent_coef", "max_grad_norm")
    settings = {name: getattr(recipe, name) for name in theirs}
    first = MazeWalk(mazes)
    return PPO(
        WalkPolicy,
        DummyVecEnv([lambda: copy.copy(first)] * recipe.n_envs),  # mazes and distances are shared: they never change
        learning_rate=lambda left: recipe.learning_rate * max(left, recipe.final_share),
        seed=seed,
        device="cpu",
        policy_kwargs={
            "features_extractor_class": WholeNet,
            "features_extractor_kwargs": {"net": recipe.net},
            "net_arch": [],
            "ortho_init": False,
        },
        **settings,
    )


def export(agent: PPO, origin: dict[str, str]) -> PPOPolicy:
    """What the agent has learned, apart from stable-baselines3."""
    trained = agent.policy.features_extractor
    assert isinstance(trained, WholeNet)
    return PPOPolicy(copy.deepcopy(trained.net), origin)
