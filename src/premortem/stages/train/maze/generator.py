"""Makes layouts of walls, and puts a start and a goal into them that a path joins.

``corridors``: rooms at even rows and columns, joined by a random spanning tree, then further walls opened, so that
loops make "a path" and "a shortest path" different questions. ``field``: walls strewn over an open square.
"""

from __future__ import annotations

from random import Random
from typing import Literal

from premortem.stages.train.maze.grid import FREE, GOAL, START, WALL, neighbours
from premortem.stages.train.maze.paths import count_ways, distances

Kind = Literal["corridors", "field"]
LOOPS = (0.0, 0.4)
"""Share of the walls between rooms, beyond the tree's, that is opened; drawn from this range by layout."""
DENSITY = (0.2, 0.4)
"""Share of walls in a field; drawn from this range by layout."""


def draw_layout(size: int, kind: Kind, rng: Random) -> bytes:
    """A square of WALL and FREE; of ``corridors`` every free cell can be reached from every other (odd sizes)."""
    return _corridors(size, rng) if kind == "corridors" else _field(size, rng)


def _corridors(size: int, rng: Random) -> bytes:
    tokens = bytearray(size * size)
    beside = neighbours(size)
    rooms = {row * size + column for row in range(0, size, 2) for column in range(0, size, 2)}
    for room in rooms:
        tokens[room] = FREE
    doors = [(wall, _rooms_beside(wall, beside, rooms)) for wall in range(size * size) if wall not in rooms]
    doors = [(wall, pair) for wall, pair in doors if len(pair) == 2]
    rng.shuffle(doors)
    group = {room: room for room in rooms}
    spare = []
    for wall, (first, second) in doors:  # Kruskal's spanning tree over doors in random order
        if (a := _root(group, first)) != (b := _root(group, second)):
            group[a] = b
            tokens[wall] = FREE
        else:
            spare.append(wall)
    share = rng.uniform(*LOOPS)
    for wall in spare:
        if rng.random() < share:
            tokens[wall] = FREE
    return bytes(tokens)


def _rooms_beside(wall: int, beside: tuple[tuple[int, ...], ...], rooms: set[int]) -> list[int]:
    return [cell for cell in beside[wall] if cell in rooms]


def _root(group: dict[int, int], room: int) -> int:
    while group[room] != room:
        room = group[room]
    return room


def _field(size: int, rng: Random) -> bytes:
    share = rng.uniform(*DENSITY)
    return bytes(WALL if rng.random() < share else FREE for _ in range(size * size))


def place_ends(layout: bytes, min_length: int, rng: Random, *, unique: bool = False) -> bytes | None:
    """The layout with a start and a goal at least ``min_length`` steps apart; ``None`` where it has none such.

    The start is uniform over cells that have a far enough partner, the distance uniform over those that it has:
    long ways are rare, and uniform partners would hardly teach them. ``unique`` takes only pairs that a single shortest
    path joins.
    """
    free = [cell for cell, token in enumerate(layout) if token == FREE]
    for start in rng.sample(free, len(free)):
        by_distance: dict[int, list[int]] = {}
        ways = count_ways(layout, start)
        for cell, steps in enumerate(distances(layout, start)):
            if steps >= max(1, min_length) and (ways[cell] == 1 or not unique):
                by_distance.setdefault(steps, []).append(cell)
        if by_distance:
            goal = rng.choice(by_distance[rng.choice(sorted(by_distance))])
            tokens = bytearray(layout)
            tokens[start], tokens[goal] = START, GOAL
            return bytes(tokens)
    return None
