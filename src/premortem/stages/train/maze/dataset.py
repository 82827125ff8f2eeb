"""Mazes for training, and held-out mazes whose layouts of walls training never sees, turned or mirrored neither.

The split is by layout, which is stricter than by maze: another start and goal in a known layout is no new maze here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from random import Random

import numpy as np

from premortem.core.errors import ConfigError
from premortem.stages.train.maze.generator import Kind, draw_layout, place_ends
from premortem.stages.train.maze.paths import shortest_answer, shortest_length
from premortem.stages.train.maze.symmetry import Tokens, canonical_form, variants

_DRY = 2000
"""Draws in a row without a new layout, after which there are hardly any left."""


class Difficulty(IntEnum):
    """By the steps of a shortest path, in sides of the square."""

    NEAR = 0
    """Fewer steps than one side has cells."""
    FAR = 1
    """Fewer than two sides."""
    WINDING = 2
    """More: the way turns back on itself."""


@dataclass(frozen=True)
class MazeConfig:
    """What to generate. The same config gives the same mazes, bit for bit."""

    size: int = 7
    """Cells on a side, odd, 5 to 31."""
    train_layouts: int = 1500
    """Layouts of walls for training, different under all eight symmetries."""
    held_out_layouts: int = 200
    """Layouts kept out of training."""
    mazes_per_layout: int = 4
    """Pairs of start and goal in each training layout; held-out layouts give ``held_out_mazes_per_layout``."""
    held_out_mazes_per_layout: int = 2
    kinds: tuple[Kind, ...] = ("corridors", "field")
    """Taken in turn."""
    min_length: int = 3
    """Steps between start and goal at least, in training mazes."""
    held_out_min_length: int = 3
    """The same in held-out mazes. Short ways teach the rules before long ones need them."""
    unique: bool = False
    """Whether every maze has a single shortest path. A model taught one of several is taught an arbitrary choice too;
    any of them is right all the same."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not (5 <= self.size <= 31 and self.size % 2):
            raise ConfigError(f"maze size {self.size}: expected an odd number from 5 to 31; rooms lie two cells apart")
        counts = (self.train_layouts, self.held_out_layouts, self.mazes_per_layout, self.held_out_mazes_per_layout)
        if min(counts) < 1:
            raise ConfigError(f"maze layouts and mazes a layout {counts}: expected each to be at least 1")
        if not self.kinds or not set(self.kinds) <= {"corridors", "field"}:
            raise ConfigError(f"maze kinds {self.kinds}: expected some of 'corridors' and 'field'")


@dataclass(frozen=True, eq=False)
class Mazes:
    """P mazes as tokens (:mod:`.grid`)."""

    size: int
    mazes: Tokens
    """(P, C) what is given."""
    answers: Tokens
    """(P, C) the taught shortest path of each, marked."""
    lengths: Tokens
    """(P,) steps of a shortest path."""
    difficulty: Tokens
    """(P,) a :class:`Difficulty` each."""

    def __len__(self) -> int:
        return len(self.mazes)

    def __iter__(self) -> Iterator[bytes]:
        return (row.astype(np.uint8).tobytes() for row in self.mazes)


@dataclass(frozen=True)
class MazeSplit:
    """Training and held-out mazes that share no layout under any symmetry."""

    train: Mazes
    held_out: Mazes

    def batches(self, batch_size: int, seed: int, *, augment: bool = True) -> AugmentedBatches:
        """An endless, randomly accessible stream of training batches."""
        return AugmentedBatches(self.train, batch_size, seed, augment=augment)


def make_split(config: MazeConfig) -> MazeSplit:
    """Generate and split; raises :class:`ConfigError` where there are not so many different layouts."""
    rng = Random(f"maze layouts {config}")
    wanted = config.train_layouts + config.held_out_layouts
    found: dict[bytes, bytes] = {}
    dry = draws = 0
    while len(found) < wanted:
        layout = draw_layout(config.size, config.kinds[draws % len(config.kinds)], rng)
        draws, form = draws + 1, canonical_form(layout)
        dry = dry + 1 if form in found else 0
        if dry > _DRY:
            raise ConfigError(
                f"mazes of size {config.size}: found {len(found)} layouts that no symmetry joins, expected {wanted}; "
                "ask for fewer, or for a larger size"
            )
        if form not in found and _has_ends(config, layout, rng):
            found[form] = layout
    layouts = rng.sample(list(found.values()), wanted)
    train, held_out = layouts[: config.train_layouts], layouts[config.train_layouts :]
    return MazeSplit(
        _place_all(config, train, config.mazes_per_layout, held_out=False),
        _place_all(config, held_out, config.held_out_mazes_per_layout, held_out=True),
    )


def _has_ends(config: MazeConfig, layout: bytes, rng: Random) -> bool:
    """Whether a layout may stand on either side."""
    return all(_place(config, layout, rng, held_out=side) is not None for side in (False, True))


def _place(config: MazeConfig, layout: bytes, rng: Random, *, held_out: bool) -> bytes | None:
    length = config.held_out_min_length if held_out else config.min_length
    return place_ends(layout, length, rng, unique=config.unique)


def _place_all(config: MazeConfig, layouts: list[bytes], per_layout: int, *, held_out: bool) -> Mazes:
    """``per_layout`` pairs of ends in each layout; a maze that comes up twice is kept once."""
    rows: dict[bytes, None] = {}
    for layout in layouts:
        rng = Random(f"maze ends {config.seed} {layout.hex()}")
        for _ in range(per_layout):
            maze = _place(config, layout, rng, held_out=held_out)
            assert maze is not None  # checked when the layout was drawn
            rows[maze] = None
    return gather(list(rows))


def gather(mazes: list[bytes]) -> Mazes:
    """Mazes of one size with answers and difficulty. Raises :class:`ConfigError` for one that cannot be solved."""
    size = round(len(mazes[0]) ** 0.5)
    lengths = np.array([shortest_length(maze) for maze in mazes], dtype=np.int64)
    return Mazes(
        size,
        as_tokens(mazes),
        as_tokens([shortest_answer(maze) for maze in mazes]),
        lengths,
        np.minimum(lengths // size, Difficulty.WINDING),
    )


def as_tokens(rows: list[bytes]) -> Tokens:
    """Squares of tokens as an array (P, C)."""
    return np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), -1).astype(np.int64)


class AugmentedBatches:
    """Training batches addressed by step: batch ``i`` is the same whenever it is asked for.

    A maze comes turned and mirrored at random. Its answer is that of the turned maze: among equally short paths the
    taught one is the first by moves, and which that is changes with the turn.
    """

    def __init__(self, train: Mazes, batch_size: int, seed: int, *, augment: bool = True) -> None:
        self._batch_size = batch_size
        self._seed = seed
        turned = [maze for given in train for maze in variants(given)] if augment else list(train)
        self._mazes = as_tokens(turned)
        self._answers = as_tokens([shortest_answer(maze) for maze in turned])

    def batch(self, step: int) -> tuple[Tokens, Tokens]:
        """Mazes and answers of batch ``step``: two (B, C) arrays of tokens."""
        rng = np.random.default_rng([self._seed, step])
        rows = rng.integers(len(self._mazes), size=self._batch_size)
        return self._mazes[rows], self._answers[rows]
