"""How hard a puzzle is, by the strongest technique that it needs.

The rater works as a person does: it places every naked single (a cell with one candidate); only when there is
none, one hidden single (a digit with one place left in a unit); only when there is none of these either, it
guesses in the tightest cell. Stronger deductions (pairs, fish) count as guesses here: a rating of GUESS means
"singles alone do not solve it".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from premortem.core.errors import ConfigError
from premortem.stages.train.sudoku.shape import Grid, Shape
from premortem.stages.train.sudoku.solver import candidate_masks


class Difficulty(IntEnum):
    """The strongest technique needed."""

    NAKED = 0
    HIDDEN = 1
    GUESS = 2


@dataclass(frozen=True)
class Rating:
    """What solving took. ``guesses`` counts every digit tried in a branching cell, wrong ones included."""

    clues: int
    naked: int
    hidden: int
    guesses: int

    @property
    def difficulty(self) -> Difficulty:
        """The strongest technique among those counted."""
        if self.guesses:
            return Difficulty.GUESS
        return Difficulty.HIDDEN if self.hidden else Difficulty.NAKED


class _Rater:
    """Solves one puzzle and counts the steps."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.naked = self.hidden = self.guesses = 0

    def solve(self, cells: list[int], free: list[int]) -> bool:
        while True:
            masks = self._masks(cells, free)
            if not masks:
                return True
            if min(masks.values(), key=int.bit_count) == 0:
                return False
            single = self._naked(masks) or self._hidden(masks, free)
            if single is None:
                return self._guess(masks, cells, free)
            self._place(*single, cells, free)

    def _masks(self, cells: list[int], free: list[int]) -> dict[int, int]:
        units_of = self.shape.units_of
        return {
            cell: free[units_of[cell][0]] & free[units_of[cell][1]] & free[units_of[cell][2]]
            for cell in range(self.shape.cells)
            if not cells[cell]
        }

    def _naked(self, masks: dict[int, int]) -> tuple[int, int] | None:
        for cell, mask in masks.items():
            if mask.bit_count() == 1:
                self.naked += 1
                return cell, mask
        return None

    def _hidden(self, masks: dict[int, int], free: list[int]) -> tuple[int, int] | None:
        for index, unit in enumerate(self.shape.units):
            once = more = 0
            for cell in unit:
                mask = masks.get(cell, 0)
                more |= once & mask
                once |= mask
            lone = once & ~more & free[index]
            if lone:
                bit = lone & -lone
                self.hidden += 1
                return next(cell for cell in unit if masks.get(cell, 0) & bit), bit
        return None

    def _place(self, cell: int, bit: int, cells: list[int], free: list[int]) -> None:
        cells[cell] = bit.bit_length()
        for unit in self.shape.units_of[cell]:
            free[unit] &= ~bit

    def _guess(self, masks: dict[int, int], cells: list[int], free: list[int]) -> bool:
        cell = min(masks, key=lambda c: (masks[c].bit_count(), c))
        rest = masks[cell]
        while rest:
            bit = rest & -rest
            rest ^= bit
            self.guesses += 1
            branch_cells, branch_free = cells.copy(), free.copy()
            self._place(cell, bit, branch_cells, branch_free)
            if self.solve(branch_cells, branch_free):
                return True
        return False


def rate(shape: Shape, puzzle: Grid) -> Rating:
    """Rate a puzzle; raises :class:`ConfigError` when it has no solution."""
    cells = list(puzzle)
    free = candidate_masks(shape, cells)
    rater = _Rater(shape)
    if free is None or not rater.solve(cells, free):
        raise ConfigError(f"puzzle {puzzle} has no solution: expected one; rate only puzzles that can be solved")
    return Rating(sum(digit > 0 for digit in puzzle), rater.naked, rater.hidden, rater.guesses)
