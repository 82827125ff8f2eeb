"""Mazes on a square: generated, split by layout of walls, answered by a marked shortest path.

``make_split(MazeConfig(size=7))`` gives training and held-out mazes; ``read_maze`` checks what a client sent;
``is_solved(maze, answer)`` and ``is_shortest(maze, answer)`` judge any answer to it.
"""

from premortem.stages.train.maze.dataset import (
    AugmentedBatches,
    Difficulty,
    MazeConfig,
    Mazes,
    MazeSplit,
    gather,
    make_split,
)
from premortem.stages.train.maze.generator import Kind, draw_layout, place_ends
from premortem.stages.train.maze.grid import (
    FREE,
    GOAL,
    MOVES,
    PATH,
    START,
    VOCABULARY,
    WALL,
    draw_text,
    read_maze,
    side_of,
    steps_from,
)
from premortem.stages.train.maze.paths import (
    Path,
    count_shortest_paths,
    distances,
    is_shortest,
    is_solved,
    mark,
    marked_path,
    shortest_answer,
    shortest_length,
    shortest_paths,
)
from premortem.stages.train.maze.symmetry import Tokens, canonical_form, cell_symmetries, variants

__all__ = [
    "FREE",
    "GOAL",
    "MOVES",
    "PATH",
    "START",
    "VOCABULARY",
    "WALL",
    "AugmentedBatches",
    "Difficulty",
    "Kind",
    "MazeConfig",
    "MazeSplit",
    "Mazes",
    "Path",
    "Tokens",
    "canonical_form",
    "cell_symmetries",
    "count_shortest_paths",
    "distances",
    "draw_layout",
    "draw_text",
    "gather",
    "is_shortest",
    "is_solved",
    "make_split",
    "mark",
    "marked_path",
    "place_ends",
    "read_maze",
    "shortest_answer",
    "shortest_length",
    "shortest_paths",
    "side_of",
    "steps_from",
    "variants",
]
