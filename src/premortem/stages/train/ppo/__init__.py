"""The fallback for mazes: a policy that walks them, trained with PPO, asked without stable-baselines3.

``PPOPolicy.load(path).solve(tokens)`` gives a :class:`Walk`. Training is in ``.training`` and ``.environment``, which
need the extra ``rl`` and are not imported here.
"""

from premortem.stages.train.ppo.network import WalkNet, WalkNetConfig
from premortem.stages.train.ppo.policy import PPOPolicy
from premortem.stages.train.ppo.recipe import PPORecipe, ppo_recipe
from premortem.stages.train.ppo.walk import Walk, Walker

__all__ = ["PPOPolicy", "PPORecipe", "Walk", "WalkNet", "WalkNetConfig", "Walker", "ppo_recipe"]
