"""A walk through a maze: what a walker sees, where it may go, and when it is over. One rule for training and serving.

A walker sees the maze as HRM does, in the same tokens, with START where it stands now and PATH where it has been. It
may step on a free cell or the goal and on no cell twice: loops are impossible by rule, and a walk is over at the goal,
in a dead end, or after the steps allowed. There is no way back out of a dead end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from premortem.stages.train.maze import FREE, GOAL, PATH, START, mark, side_of, steps_from
from premortem.stages.train.maze.paths import without_shortcuts

View = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Walk:
    """One walk, as an answer.

    Attributes:
        tokens: the maze with the path marked, in the form of HRM's answers; of a walk that did not reach the goal,
            every cell that it trod, which is no path unless the cap stopped it right beside the goal.
        steps: taken, short cuts not yet cut.
        reached: whether it ended at the goal.
    """

    tokens: bytes
    steps: int
    reached: bool


class Walker:
    """One walker in one maze."""

    def __init__(self, maze: bytes) -> None:
        self.maze = maze
        self.view: View = np.frombuffer(maze, np.uint8).copy()
        """(C,) what it sees; changes in place."""
        self.trail = [maze.index(START)]
        self._goal = maze.index(GOAL)
        self._leads_to = steps_from(side_of(maze))

    @property
    def cell(self) -> int:
        """Where it stands."""
        return self.trail[-1]

    @property
    def reached(self) -> bool:
        """Whether it stands on the goal."""
        return self.cell == self._goal

    def open_moves(self) -> list[int]:
        """The moves that are allowed; none in a dead end."""
        seen = self.view
        return [
            move
            for move, cell in enumerate(self._leads_to[self.cell])
            if cell >= 0 and (seen[cell] == FREE or seen[cell] == GOAL)
        ]

    def step(self, move: int) -> None:
        """Make one of the :meth:`open_moves`."""
        self.view[self.cell] = PATH
        self.trail.append(self._leads_to[self.cell][move])
        self.view[self.cell] = START

    def walk(self) -> Walk:
        """The walk so far."""
        path = without_shortcuts(self.trail, side_of(self.maze)) if self.reached else self.trail
        return Walk(mark(self.maze, path), len(self.trail) - 1, self.reached)
