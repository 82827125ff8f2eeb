"""Puzzles for training and held-out puzzles whose solution grids training never sees.

The split is by solution grid. A unique solution makes it a split of puzzles too. Augmentation could undo it (every
4x4 grid is a symmetry of one of only two), so an augmented puzzle that lands on a held-out grid is drawn again.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

import numpy as np

from premortem.core.errors import ConfigError
from premortem.stages.train.sudoku.generator import dig_puzzle, draw_grids
from premortem.stages.train.sudoku.rating import rate
from premortem.stages.train.sudoku.shape import Grid, Shape, shape_of
from premortem.stages.train.sudoku.symmetry import (
    Tokens,
    canonical_form,
    cell_symmetries,
    draw_symmetries,
    transform,
)


@dataclass(frozen=True)
class SudokuConfig:
    """What to generate. The same config gives the same puzzles, bit for bit."""

    size: int = 4
    """4, 6 or 9."""
    train_grids: int = 200
    """Solution grids for training."""
    held_out_grids: int = 88
    """Solution grids kept out of training."""
    puzzles_per_grid: int = 16
    """Puzzles dug out of each training grid; held-out grids give ``held_out_puzzles_per_grid``."""
    held_out_puzzles_per_grid: int = 5
    clues: tuple[int, int] = (0, 0)
    """Digging a training puzzle stops at a number of clues drawn from this range, ends included; or earlier, when no
    clue can go. Easy puzzles teach the rules before the hard ones need them."""
    held_out_clues: tuple[int, int] = (0, 0)
    """The same for held-out puzzles; (0, 0) digs until no clue can go, the hardest test."""
    split: Literal["grid", "class"] = "grid"
    """``grid``: no solution grid is on both sides. ``class``: no equivalence class of grids is, which is stricter."""
    seed: int = 0

    def __post_init__(self) -> None:
        counts = (self.train_grids, self.held_out_grids, self.puzzles_per_grid, self.held_out_puzzles_per_grid)
        if min(counts) < 1:
            raise ConfigError(f"Sudoku grid and puzzle counts {counts}: expected each to be at least 1")
        for low, high in (self.clues, self.held_out_clues):
            if not 0 <= low <= high <= self.size**2:
                raise ConfigError(
                    f"clue range ({low}, {high}) at size {self.size}: expected 0 <= low <= high <= {self.size**2}"
                )


@dataclass(frozen=True, eq=False)
class Puzzles:
    """P puzzles as tokens: 0 is a blank, 1..size a digit."""

    shape: Shape
    puzzles: Tokens
    """(P, C) clues."""
    solutions: Tokens
    """(P, C) the one solution of each."""
    difficulty: Tokens
    """(P,) a :class:`Difficulty` each."""
    guesses: Tokens
    """(P,) guesses that the rater needed."""

    def __len__(self) -> int:
        return len(self.puzzles)


@dataclass(frozen=True)
class SudokuSplit:
    """Training and held-out puzzles that share no solution grid."""

    train: Puzzles
    held_out: Puzzles

    def batches(self, batch_size: int, seed: int, *, augment: bool = True) -> AugmentedBatches:
        """An endless, randomly accessible stream of training batches."""
        return AugmentedBatches(self, batch_size, seed, augment=augment)


def make_split(config: SudokuConfig) -> SudokuSplit:
    """Generate, rate and split; raises :class:`ConfigError` for sizes or counts that do not exist."""
    shape = shape_of(config.size)
    rng = Random(f"sudoku grids {config.size} {config.seed}")
    if config.split == "class":
        train, held_out = _split_by_class(shape, config, rng)
    else:
        grids = draw_grids(shape, config.train_grids + config.held_out_grids, rng)
        train, held_out = grids[: config.train_grids], grids[config.train_grids :]
    return SudokuSplit(
        _dig_all(shape, train, config.puzzles_per_grid, config.clues, config.seed),
        _dig_all(shape, held_out, config.held_out_puzzles_per_grid, config.held_out_clues, config.seed),
    )


def _split_by_class(shape: Shape, config: SudokuConfig, rng: Random) -> tuple[list[Grid], list[Grid]]:
    """Classes in random order go to the held-out side until it is full; every other class trains."""
    symmetries = cell_symmetries(shape)
    total = 288 if shape.size == 4 else 4 * (config.train_grids + config.held_out_grids)
    by_class: dict[Grid, list[Grid]] = {}
    for grid in draw_grids(shape, total, rng):
        by_class.setdefault(canonical_form(grid, symmetries), []).append(grid)
    held_out: list[Grid] = []
    train: list[Grid] = []
    for grids in sorted(by_class.values(), key=len):
        side = held_out if len(held_out) < config.held_out_grids else train
        side.extend(grids)
    if len(train) < config.train_grids or len(held_out) < config.held_out_grids:
        raise ConfigError(
            f"split 'class' at size {shape.size}: found {len(train)} training and {len(held_out)} held-out grids,"
            f" expected {config.train_grids} and {config.held_out_grids}; ask for fewer, or use split 'grid'"
        )
    return rng.sample(train, config.train_grids), rng.sample(held_out, config.held_out_grids)


def _dig_all(shape: Shape, grids: list[Grid], per_grid: int, clues: tuple[int, int], seed: int) -> Puzzles:
    """Dig each grid ``per_grid`` times; a puzzle that comes up twice is kept once."""
    rows: dict[Grid, Grid] = {}
    for grid in grids:
        rng = Random(f"sudoku dig {seed} {grid}")
        for _ in range(per_grid):
            rows[dig_puzzle(shape, grid, rng, rng.randint(*clues))] = grid
    ratings = [rate(shape, puzzle) for puzzle in rows]
    return Puzzles(
        shape,
        np.array(list(rows), dtype=np.int64),
        np.array(list(rows.values()), dtype=np.int64),
        np.array([rating.difficulty for rating in ratings], dtype=np.int64),
        np.array([rating.guesses for rating in ratings], dtype=np.int64),
    )


class AugmentedBatches:
    """Training batches addressed by step: batch ``i`` is the same whenever it is asked for.

    So a data position is one integer, and a resumed run sees what the unbroken one would have seen.
    """

    def __init__(self, split: SudokuSplit, batch_size: int, seed: int, *, augment: bool = True) -> None:
        self._train = split.train
        self._batch_size = batch_size
        self._seed = seed
        self._augment = augment
        self._forbidden = frozenset(row.tobytes() for row in split.held_out.solutions)

    def batch(self, step: int) -> tuple[Tokens, Tokens]:
        """Puzzles and solutions of batch ``step``: two (B, C) arrays of tokens."""
        rng = np.random.default_rng([self._seed, step])
        rows = rng.integers(len(self._train), size=self._batch_size)
        puzzles, solutions = self._train.puzzles[rows], self._train.solutions[rows]
        pending = np.arange(self._batch_size) if self._augment else np.arange(0)
        while len(pending):
            cells, digits = draw_symmetries(self._train.shape, len(pending), rng)
            moved = transform(solutions[pending], cells, digits)
            allowed = np.array([row.tobytes() not in self._forbidden for row in moved])
            keep = pending[allowed]
            puzzles[keep] = transform(puzzles[keep], cells[allowed], digits[allowed])
            solutions[keep] = moved[allowed]
            pending = pending[~allowed]
        return puzzles, solutions
