"""The geometry of a Sudoku: how many digits, how its boxes lie, which cells see each other.

A grid is a flat tuple of ``n * n`` digits, row by row; 0 is a blank.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from premortem.core.errors import ConfigError

Grid = tuple[int, ...]


@dataclass(frozen=True)
class Shape:
    """A grid of ``size`` x ``size`` cells in boxes of ``box_rows`` x ``box_columns``."""

    size: int
    box_rows: int
    box_columns: int

    def __post_init__(self) -> None:
        if self.size != self.box_rows * self.box_columns:
            raise ConfigError(
                f"box of {self.box_rows} x {self.box_columns} cells in a Sudoku of size {self.size}:"
                " a box must hold every digit once; make box_rows * box_columns equal size"
            )

    @property
    def cells(self) -> int:
        """Number of cells, ``size ** 2``."""
        return self.size * self.size

    def box_of(self, cell: int) -> int:
        """Index of the box that holds ``cell``, boxes counted row by row."""
        row, column = divmod(cell, self.size)
        return (row // self.box_rows) * self.box_rows + column // self.box_columns

    @cached_property
    def units(self) -> tuple[tuple[int, ...], ...]:
        """Every row, then every column, then every box, as tuples of cell indices."""
        n = self.size
        rows = [tuple(range(row * n, row * n + n)) for row in range(n)]
        columns = [tuple(range(column, n * n, n)) for column in range(n)]
        boxes = [tuple(c for c in range(n * n) if self.box_of(c) == box) for box in range(n)]
        return tuple(rows + columns + boxes)

    @cached_property
    def units_of(self) -> tuple[tuple[int, int, int], ...]:
        """For each cell the indices of its row, column and box in :attr:`units`."""
        n = self.size
        return tuple((c // n, n + c % n, 2 * n + self.box_of(c)) for c in range(n * n))

    def is_solution(self, grid: Grid) -> bool:
        """Whether every unit of ``grid`` holds each digit 1..size exactly once."""
        digits = set(range(1, self.size + 1))
        return len(grid) == self.cells and all({grid[c] for c in unit} == digits for unit in self.units)


SHAPES = {4: Shape(4, 2, 2), 6: Shape(6, 2, 3), 9: Shape(9, 3, 3)}


def shape_of(size: int) -> Shape:
    """The shape of a ``size`` x ``size`` Sudoku; raises :class:`ConfigError` for any size but 4, 6 and 9."""
    if size not in SHAPES:
        raise ConfigError(f"Sudoku size {size}: expected one of {sorted(SHAPES)}; choose one of them")
    return SHAPES[size]
