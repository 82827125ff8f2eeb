"""Shortest paths by breadth-first search, and what makes an answer right.

All shortest paths are known through the distances to the goal: a step is on one of them just when it brings the goal
nearer. Any of them is a right answer; one of them, the first in the order of the moves, is what a model is taught.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from premortem.core.errors import ConfigError
from premortem.stages.train.maze.grid import FREE, GOAL, PATH, START, WALL, neighbours, side_of

Path = tuple[int, ...]
"""Cells from start to goal, both included."""


def distances(maze: bytes, origin: int) -> list[int]:
    """Steps from ``origin`` to every cell over cells that are no wall; -1 where it cannot be reached."""
    beside = neighbours(side_of(maze))
    found = [-1] * len(maze)
    found[origin] = 0
    edge = [origin]
    while edge:
        following = []
        for cell in edge:
            for near in beside[cell]:
                if found[near] < 0 and maze[near] != WALL:
                    found[near] = found[cell] + 1
                    following.append(near)
        edge = following
    return found


def shortest_length(maze: bytes) -> int:
    """Steps of a shortest path, ≥ 1. Raises :class:`ConfigError` for a maze without any, in one line for its sender."""
    steps = distances(maze, maze.index(GOAL))[maze.index(START)]
    if steps < 0:
        raise ConfigError("maze: found no way from start to goal, expected at least one; open a wall between them")
    return steps


def shortest_paths(maze: bytes) -> Iterator[Path]:
    """Every shortest path once, the taught one first. An open field has very many: take what you need.

    Raises :class:`ConfigError` for a maze without any.
    """
    shortest_length(maze)
    away, goal = distances(maze, maze.index(GOAL)), maze.index(GOAL)
    beside = neighbours(side_of(maze))
    stack: list[Path] = [(maze.index(START),)]
    while stack:
        path = stack.pop()
        if path[-1] == goal:
            yield path
            continue
        nearer = [near for near in beside[path[-1]] if away[near] == away[path[-1]] - 1]
        stack.extend((*path, near) for near in reversed(nearer))


def count_ways(maze: bytes, origin: int) -> list[int]:
    """How many shortest paths lead from ``origin`` to every cell, without listing them; 0 where none does."""
    away = distances(maze, origin)
    beside = neighbours(side_of(maze))
    ways = [0] * len(maze)
    ways[origin] = 1
    for cell in sorted((cell for cell in range(len(maze)) if away[cell] > 0), key=away.__getitem__):
        ways[cell] = sum(ways[near] for near in beside[cell] if away[near] == away[cell] - 1)
    return ways


def count_shortest_paths(maze: bytes) -> int:
    """How many shortest paths there are from start to goal; 0 for an unsolvable maze."""
    return count_ways(maze, maze.index(GOAL))[maze.index(START)]


def mark(maze: bytes, path: Sequence[int]) -> bytes:
    """The maze with PATH on the free cells of ``path``: the form of an answer."""
    tokens = bytearray(maze)
    for cell in path:
        if tokens[cell] == FREE:
            tokens[cell] = PATH
    return bytes(tokens)


def shortest_answer(maze: bytes) -> bytes:
    """The taught answer: the first shortest path marked. Raises :class:`ConfigError` for an unsolvable maze."""
    return mark(maze, next(shortest_paths(maze)))


def marked_path(maze: bytes, answer: Sequence[int]) -> Path | None:
    """The path that an answer marks, or ``None`` where it marks none.

    It marks one when it changes nothing but free cells into path, and from the start each next cell is the only
    marked one that can follow, up to the goal, with none left over: no branch, no stray mark, no cell beside an
    earlier one. Every shortest path is like that; a path that touches itself has a short cut and must take it.
    """
    if len(answer) != len(maze) or any(
        said != token and (token, said) != (FREE, PATH) for token, said in zip(maze, answer, strict=True)
    ):
        return None
    beside = neighbours(side_of(maze))
    goal = maze.index(GOAL)
    left = {cell for cell, token in enumerate(answer) if token in (PATH, GOAL)}
    path = [maze.index(START)]
    while path[-1] != goal:
        following = [near for near in beside[path[-1]] if near in left]
        if len(following) != 1:
            return None
        left.remove(following[0])
        path.append(following[0])
    return None if left else tuple(path)


def is_solved(maze: bytes, answer: Sequence[int]) -> bool:
    """Whether ``answer`` marks a connected path from start to goal over free cells (:func:`marked_path`)."""
    return marked_path(maze, answer) is not None


def is_shortest(maze: bytes, answer: Sequence[int]) -> bool:
    """Whether it marks a shortest one; any of them is right. Raises :class:`ConfigError` for an unsolvable maze."""
    length = shortest_length(maze)
    path = marked_path(maze, answer)
    return path is not None and len(path) - 1 == length


def without_shortcuts(path: Sequence[int], size: int) -> Path:
    """The path with every short cut taken: from each cell straight to the latest cell beside it.

    A path that never enters a cell twice may still run beside itself; drawn as marks it could not be told which way
    it went. What is left has the form that :func:`marked_path` reads.
    """
    beside = neighbours(size)
    place = {cell: index for index, cell in enumerate(path)}
    kept, index = [path[0]], 0
    while index < len(path) - 1:
        index = max(place[near] for near in beside[path[index]] if near in place)
        kept.append(path[index])
    return tuple(kept)
