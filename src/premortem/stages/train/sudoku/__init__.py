"""Sudoku of sizes 4, 6 and 9 with unique solutions, rated, split by solution grid.

``make_split(SudokuConfig(size=4))`` gives training and held-out puzzles; ``split.batches(64, seed=0).batch(step)``
gives an augmented training batch by step.
"""

from premortem.stages.train.sudoku.dataset import (
    AugmentedBatches,
    Puzzles,
    SudokuConfig,
    SudokuSplit,
    make_split,
)
from premortem.stages.train.sudoku.generator import dig_puzzle, draw_grids
from premortem.stages.train.sudoku.rating import Difficulty, Rating, rate
from premortem.stages.train.sudoku.shape import SHAPES, Grid, Shape, shape_of
from premortem.stages.train.sudoku.solver import count_solutions, has_unique_solution, solutions
from premortem.stages.train.sudoku.symmetry import Tokens, canonical_form, cell_symmetries

__all__ = [
    "SHAPES",
    "AugmentedBatches",
    "Difficulty",
    "Grid",
    "Puzzles",
    "Rating",
    "Shape",
    "SudokuConfig",
    "SudokuSplit",
    "Tokens",
    "canonical_form",
    "cell_symmetries",
    "count_solutions",
    "dig_puzzle",
    "draw_grids",
    "has_unique_solution",
    "make_split",
    "rate",
    "shape_of",
    "solutions",
]
