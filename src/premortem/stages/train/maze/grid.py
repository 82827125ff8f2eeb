"""What a maze is made of: a square of tokens, one a cell, that a client can send and a model can answer.

Walls surround the square from outside; they are no cells. A maze holds WALL, FREE, one START and one GOAL; an answer
is the same maze with PATH on the free cells between the two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

from premortem.core.errors import ConfigError

WALL, FREE, START, GOAL, PATH = range(5)
VOCABULARY = 5
MOVES = ("up", "right", "down", "left")
"""The four moves by number: of an agent, and the order in which equally short paths are preferred."""
MIN_SIZE, MAX_SIZE = 3, 31


def read_maze(given: Sequence[int], size: int = 0) -> bytes:
    """The maze as bytes, one a cell, row by row.

    Args:
        given: C tokens 0..3, C the square of the side.
        size: the side that is wanted; 0 takes any from 3 to 31.

    Raises:
        ConfigError: for what is no maze, in one line that can be shown to whoever sent it.
    """
    try:
        maze = bytes(given)
    except (TypeError, ValueError) as error:
        raise ConfigError("maze: found something else than whole numbers 0 to 3, expected one a cell") from error
    side = size or math.isqrt(len(maze))
    if side * side != len(maze) or not MIN_SIZE <= side <= MAX_SIZE:
        wanted = f"{size * size} cells ({size} x {size})" if size else f"a square with a side of {MIN_SIZE}..{MAX_SIZE}"
        raise ConfigError(f"maze: found {len(maze)} cells, expected {wanted}, row by row")
    if max(maze) > GOAL:
        cell = next(cell for cell, token in enumerate(maze) if token > GOAL)
        raise ConfigError(
            f"maze: found token {maze[cell]} in row {cell // side}, column {cell % side}; "
            "expected 0 (wall), 1 (free), 2 (start) or 3 (goal)"
        )
    if (maze.count(START), maze.count(GOAL)) != (1, 1):
        raise ConfigError(
            f"maze: found {maze.count(START)} starts (token 2) and {maze.count(GOAL)} goals (token 3), "
            "expected one of each"
        )
    return maze


def side_of(tokens: bytes) -> int:
    """The side of a square of tokens."""
    return math.isqrt(len(tokens))


@cache
def steps_from(size: int) -> tuple[tuple[int, int, int, int], ...]:
    """For each cell the cells that the four :data:`MOVES` lead to; -1 leaves the square."""
    grid = []
    for cell in range(size * size):
        row, column = divmod(cell, size)
        grid.append(
            (
                cell - size if row else -1,
                cell + 1 if column < size - 1 else -1,
                cell + size if row < size - 1 else -1,
                cell - 1 if column else -1,
            )
        )
    return tuple(grid)


@cache
def neighbours(size: int) -> tuple[tuple[int, ...], ...]:
    """For each cell those beside it, in the order of :data:`MOVES`."""
    return tuple(tuple(cell for cell in row if cell >= 0) for row in steps_from(size))


def draw_text(tokens: bytes) -> str:
    """A maze or an answer for the eye: ``#`` wall, ``.`` free, ``S``, ``G``, ``*`` path."""
    size = side_of(tokens)
    marks = "".join("#.SG*"[token] for token in tokens)
    return "\n".join(marks[row : row + size] for row in range(0, len(marks), size))
