"""Mazes as a gymnasium environment: the walk of :mod:`.walk`, with a reward that training alone sees."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from premortem.core.errors import ConfigError
from premortem.stages.train.maze import GOAL, PATH, Mazes, distances, variants
from premortem.stages.train.ppo.walk import View, Walker

NEARER = 0.2
"""Reward of a step that brings the goal one step nearer; one that leads away costs as much."""
ARRIVED = 1.0
STUCK = -1.0


class MazeWalk(gymnasium.Env[View, np.int64]):
    """One walk an episode, in a maze drawn at random, turned and mirrored at random.

    Observation: (C,) tokens, as HRM's, with START at the walker and PATH where it has been; neither distances nor the
    solution. Actions: the four moves; one that is not allowed changes nothing and costs a step away from the goal.
    """

    def __init__(self, mazes: Mazes) -> None:
        if not len(mazes):
            raise ConfigError("an environment of 0 mazes: expected at least 1")
        self._mazes = [turned for maze in mazes for turned in variants(maze)]
        self._away: dict[int, list[int]] = {}
        self.observation_space = gymnasium.spaces.Box(0, PATH, (mazes.size**2,), np.uint8)
        self.action_space = gymnasium.spaces.Discrete(4)
        self._number = 0
        self._tries = 0
        self._walker = Walker(self._mazes[0])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[View, dict[str, Any]]:
        """Begin in a maze drawn at random."""
        super().reset(seed=seed)
        self._number = int(self.np_random.integers(len(self._mazes)))
        self._tries = 0
        self._walker = Walker(self._mazes[self._number])
        return self._walker.view.copy(), {}

    def step(self, action: np.int64 | int) -> tuple[View, float, bool, bool, dict[str, Any]]:
        """One move. Terminated at the goal and in a dead end; truncated after twice as many moves as cells."""
        walker, away = self._walker, self._distances()
        before, self._tries = away[walker.cell], self._tries + 1
        reward = -NEARER
        if int(action) in walker.open_moves():
            walker.step(int(action))
            reward = NEARER * (before - away[walker.cell])
        stuck = not walker.reached and not walker.open_moves()
        reward += ARRIVED * walker.reached + STUCK * stuck
        cut = self._tries >= 2 * len(walker.view)
        return walker.view.copy(), reward, walker.reached or stuck, cut, {"reached": walker.reached}

    def _distances(self) -> list[int]:
        """Of every cell to the goal, for the reward; kept by maze, as each comes up many times."""
        if self._number not in self._away:
            maze = self._mazes[self._number]
            self._away[self._number] = distances(maze, maze.index(GOAL))
        return self._away[self._number]
