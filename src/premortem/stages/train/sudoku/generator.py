"""Makes full grids and digs puzzles out of them, each with exactly one solution."""

from __future__ import annotations

from itertools import islice
from random import Random

from premortem.core.errors import ConfigError
from premortem.stages.train.sudoku.shape import Grid, Shape
from premortem.stages.train.sudoku.solver import has_unique_solution, solutions


def draw_grids(shape: Shape, count: int, rng: Random) -> list[Grid]:
    """``count`` different full grids in random order.

    4x4: uniform without replacement out of all 288. 6x6 and 9x9: randomised search, duplicates dropped; every grid
    can come up, but not all with the same probability. Raises :class:`ConfigError` beyond 288 grids of size 4.
    """
    if shape.size == 4:
        everything = list(solutions(shape, (0,) * shape.cells))
        if count > len(everything):
            raise ConfigError(
                f"{count} solution grids of size 4: there are only {len(everything)}; ask for fewer grids"
            )
        return rng.sample(everything, count)
    grids: dict[Grid, None] = {}
    while len(grids) < count:
        grids[next(solutions(shape, (0,) * shape.cells, rng))] = None
    return list(islice(grids, count))


def _still_forced(shape: Shape, puzzle: list[int], cell: int, digit: int) -> bool:
    """Whether blanking ``cell`` leaves ``digit`` as its naked or hidden single: then uniqueness needs no search."""
    seen = {puzzle[other] for unit in shape.units_of[cell] for other in shape.units[unit]}
    if len(seen - {0}) == shape.size - 1:
        return True
    for unit in shape.units_of[cell]:
        blanks = [c for c in shape.units[unit] if c != cell and not puzzle[c]]
        if all(_sees(shape, puzzle, blank, digit) for blank in blanks):
            return True
    return False


def _sees(shape: Shape, puzzle: list[int], cell: int, digit: int) -> bool:
    return any(puzzle[c] == digit for unit in shape.units_of[cell] for c in shape.units[unit])


def dig_puzzle(shape: Shape, grid: Grid, rng: Random, clues: int = 0) -> Grid:
    """Blank cells of ``grid`` in random order while the solution stays unique.

    Stops at ``clues`` remaining digits, or earlier where no more can go: with 0 the puzzle is locally minimal
    (no clue can be removed any more).
    """
    puzzle = list(grid)
    remaining = shape.cells
    for cell in rng.sample(range(shape.cells), shape.cells):
        if remaining <= clues:
            break
        digit, puzzle[cell] = puzzle[cell], 0
        if _still_forced(shape, puzzle, cell, digit) or has_unique_solution(shape, tuple(puzzle)):
            remaining -= 1
        else:
            puzzle[cell] = digit
    return tuple(puzzle)
