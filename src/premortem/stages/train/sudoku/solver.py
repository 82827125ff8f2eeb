"""An exact Sudoku solver: depth-first search on the cell with the fewest candidates.

It finds every solution, so that "unique" is a fact about the puzzle and not about the solver.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from random import Random

from premortem.core.errors import ConfigError
from premortem.stages.train.sudoku.shape import Grid, Shape


def candidate_masks(shape: Shape, cells: list[int]) -> list[int] | None:
    """Digits still free in each unit, as bit masks (digit d is bit d - 1).

    Returns ``None`` when a digit stands twice in a unit. Raises :class:`ConfigError` for a wrong length or digit.
    """
    if len(cells) != shape.cells or not all(0 <= digit <= shape.size for digit in cells):
        raise ConfigError(
            f"puzzle of {len(cells)} cells with digits {min(cells, default=0)}..{max(cells, default=0)}:"
            f" expected {shape.cells} cells with digits 0..{shape.size}; 0 is a blank"
        )
    free = [(1 << shape.size) - 1] * (3 * shape.size)
    for cell, digit in enumerate(cells):
        if not digit:
            continue
        bit = 1 << (digit - 1)
        for unit in shape.units_of[cell]:
            if not free[unit] & bit:
                return None
            free[unit] ^= bit
    return free


def _tightest(shape: Shape, cells: list[int], free: list[int]) -> tuple[int, int] | None:
    """The blank cell with the fewest candidates and their mask; ``None`` when no cell is blank."""
    best, best_mask, fewest = -1, 0, shape.size + 1
    for cell, (row, column, box) in enumerate(shape.units_of):
        if cells[cell]:
            continue
        mask = free[row] & free[column] & free[box]
        count = mask.bit_count()
        if count < fewest:
            best, best_mask, fewest = cell, mask, count
            if count <= 1:
                break
    return None if best < 0 else (best, best_mask)


def _digits(mask: int) -> list[int]:
    return [bit + 1 for bit in range(mask.bit_length()) if mask >> bit & 1]


def _search(shape: Shape, cells: list[int], free: list[int], rng: Random | None) -> Iterator[Grid]:
    found = _tightest(shape, cells, free)
    if found is None:
        yield tuple(cells)
        return
    cell, mask = found
    digits = _digits(mask)
    if rng is not None:
        rng.shuffle(digits)
    for digit in digits:
        bit = 1 << (digit - 1)
        cells[cell] = digit
        for unit in shape.units_of[cell]:
            free[unit] ^= bit
        yield from _search(shape, cells, free, rng)
        for unit in shape.units_of[cell]:
            free[unit] ^= bit
    cells[cell] = 0


def solutions(shape: Shape, puzzle: Grid, rng: Random | None = None) -> Iterator[Grid]:
    """Yield every solution of ``puzzle`` once; in random order of digits when ``rng`` is given."""
    cells = list(puzzle)
    free = candidate_masks(shape, cells)
    if free is not None:
        yield from _search(shape, cells, free, rng)


def count_solutions(shape: Shape, puzzle: Grid, limit: int = 2) -> int:
    """Number of solutions, counted no further than ``limit``: 1 means unique when the limit is 2 or more."""
    return sum(1 for _ in islice(solutions(shape, puzzle), limit))


def has_unique_solution(shape: Shape, puzzle: Grid) -> bool:
    """Whether ``puzzle`` has exactly one solution."""
    return count_solutions(shape, puzzle, limit=2) == 1
