"""The symmetries of Sudoku: what turns one valid puzzle into another valid puzzle.

Digits may be relabelled; bands, rows inside a band, stacks and columns inside a stack may be permuted; grids with
square boxes may be transposed. Array legend: B puzzles, C cells (size squared), n digits.
"""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray

from premortem.core.errors import ConfigError
from premortem.stages.train.sudoku.shape import Grid, Shape

Tokens = NDArray[np.int64]


def _line_orders(groups: int, lines: int, count: int, rng: np.random.Generator) -> Tokens:
    """Random orders of ``groups * lines`` rows or columns that keep groups together: (B, n)."""
    group_B = np.argsort(rng.random((count, groups)), axis=1)
    line_B = np.argsort(rng.random((count, groups, lines)), axis=2)
    return (group_B[:, :, None] * lines + line_B).reshape(count, groups * lines)


def draw_symmetries(shape: Shape, count: int, rng: np.random.Generator) -> tuple[Tokens, Tokens]:
    """Draw ``count`` symmetries, uniformly: cell orders (B, C) and digit maps (B, n + 1), where 0 maps to 0."""
    n = shape.size
    rows = _line_orders(n // shape.box_rows, shape.box_rows, count, rng)
    columns = _line_orders(n // shape.box_columns, shape.box_columns, count, rng)
    cells_Brc = rows[:, :, None] * n + columns[:, None, :]
    if shape.box_rows == shape.box_columns:
        flip = rng.random(count) < 0.5
        cells_Brc = np.where(flip[:, None, None], cells_Brc.transpose(0, 2, 1), cells_Brc)
    digits = np.argsort(rng.random((count, n)), axis=1) + 1
    return cells_Brc.reshape(count, shape.cells), np.pad(digits, ((0, 0), (1, 0)))


def transform(tokens_BC: Tokens, cells_BC: Tokens, digits_BD: Tokens) -> Tokens:
    """Apply one symmetry per puzzle: (B, C) to (B, C)."""
    moved = np.take_along_axis(tokens_BC, cells_BC, axis=1)
    return np.take_along_axis(digits_BD, moved, axis=1)


def cell_symmetries(shape: Shape) -> Tokens:
    """Every cell order of the group: (128, 16) for 4x4, (3456, 36) for 6x6.

    Raises :class:`ConfigError` for 9x9, whose 3,359,232 orders are too many to list.
    """
    if shape.size > 6:
        raise ConfigError(
            f"all symmetries of size {shape.size}: 3,359,232 cell orders, expected size 4 or 6;"
            " split 9x9 puzzles by grid, where random grids are never equivalent in practice"
        )
    rows = _all_line_orders(shape.size // shape.box_rows, shape.box_rows)
    columns = _all_line_orders(shape.size // shape.box_columns, shape.box_columns)
    orders = [np.add.outer(r * shape.size, c) for r, c in product(rows, columns)]
    if shape.box_rows == shape.box_columns:
        orders += [order.T for order in orders]
    return np.stack([order.reshape(-1) for order in orders])


def _all_line_orders(groups: int, lines: int) -> list[Tokens]:
    inner = list(permutations(range(lines)))
    return [
        np.array([group * lines + line for group, order in zip(outer, chosen, strict=True) for line in order])
        for outer in permutations(range(groups))
        for chosen in product(inner, repeat=groups)
    ]


def canonical_form(grid: Grid, symmetries: Tokens) -> Grid:
    """The smallest grid that any symmetry turns ``grid`` into: equal for two grids just when they are equivalent.

    ``symmetries`` comes from :func:`cell_symmetries`. There are 2 forms at 4x4 and 49 at 6x6.
    """
    size = round(len(grid) ** 0.5)
    moved = np.array(grid)[symmetries]
    relabel = np.zeros((len(moved), size + 1), dtype=np.int64)
    np.put_along_axis(relabel, moved[:, :size], np.arange(1, size + 1)[None, :], axis=1)
    normal = np.take_along_axis(relabel, moved, axis=1)
    smallest = normal[np.lexsort(normal.T[::-1])[0]]
    return tuple(int(digit) for digit in smallest)
