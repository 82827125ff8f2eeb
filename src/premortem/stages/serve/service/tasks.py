"""Tasks: what a puzzle must look like, and whether an answer is right. Both are cheap and need no model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Protocol

from premortem.core.errors import ConfigError
from premortem.stages.train.maze import FREE, GOAL, START, is_solved, read_maze, shortest_length
from premortem.stages.train.sudoku import shape_of, solutions

_PATIENCE = 2000
"""Branches of the search for any solution; a puzzle that is undecided by then is let through."""


class Task(Protocol):
    """A kind of puzzle."""

    name: str
    size: int
    cells: int
    largest: int
    """The largest token of a puzzle; the smallest is 0."""
    example: bytes
    """A puzzle that can be solved."""

    def check(self, puzzle: bytes) -> None:
        """Raises ConfigError where the puzzle cannot be solved, saying why in one line."""
        ...

    def is_right(self, puzzle: bytes, answer: bytes) -> bool:
        """Whether the answer solves the puzzle."""
        ...


class Sudoku:
    """Sudoku of size 4, 6 or 9; 0 is a blank."""

    name = "sudoku"

    def __init__(self, size: int) -> None:
        self._shape = shape_of(size)
        self.size, self.cells, self.largest = size, size * size, size
        self.example = bytes(self.cells)

    def check(self, puzzle: bytes) -> None:
        """Clues that contradict each other, or leave no solution."""
        for number, unit in enumerate(self._shape.units):
            digits = [puzzle[cell] for cell in unit if puzzle[cell]]
            if len(set(digits)) < len(digits):
                twice = next(digit for digit in digits if digits.count(digit) > 1)
                raise ConfigError(f"unsolvable: {self._name_of(number)} holds the digit {twice} twice")
        try:
            any_solution = next(solutions(self._shape, tuple(puzzle), _Patience(_PATIENCE)), None)
        except _OutOfPatienceError:
            return
        if any_solution is None:
            raise ConfigError("unsolvable: the clues leave no solution")

    def is_right(self, puzzle: bytes, answer: bytes) -> bool:
        """The rules are kept, and so are the clues."""
        keeps = all(clue in (0, given) for clue, given in zip(puzzle, answer, strict=True))
        return keeps and self._shape.is_solution(tuple(answer))

    def _name_of(self, unit: int) -> str:
        kind, number = divmod(unit, self.size)
        return f"{('row', 'column', 'box')[kind]} {number + 1}"


class _OutOfPatienceError(Exception):
    """The search has taken long enough."""


class _Patience(Random):
    """Ends a search after so many branches: it shuffles the digits of each, so here each is seen.

    Without it, a puzzle chosen to be hard to refute would hold the whole service up.
    """

    def __init__(self, branches: int) -> None:
        super().__init__(0)
        self._left = branches

    def shuffle(self, x: Any) -> None:
        self._left -= 1
        if self._left < 0:
            raise _OutOfPatienceError


class Maze:
    """A square maze of walls, free cells, one start and one goal; an answer marks a path, any that arrives."""

    name = "maze"
    largest = GOAL

    def __init__(self, size: int) -> None:
        self.size, self.cells = size, size * size
        self.example = bytes([START, *(self.cells - 2) * [FREE], GOAL])

    def check(self, puzzle: bytes) -> None:
        """One start, one goal, and a way between them."""
        try:
            shortest_length(read_maze(puzzle, self.size))
        except ConfigError as error:
            raise ConfigError(f"unsolvable: {error}") from error

    def is_right(self, puzzle: bytes, answer: bytes) -> bool:
        """It marks a path from start to goal."""
        return is_solved(puzzle, answer)


TASKS: dict[str, Callable[[int], Task]] = {"sudoku": Sudoku, "maze": Maze}


def task_for(name: str, size: int) -> Task:
    """The task of a model's card; raises ConfigError for one that is not known here."""
    if name not in TASKS:
        raise ConfigError(f"task {name!r}: expected one of {', '.join(sorted(TASKS))}")
    return TASKS[name](size)


def read_puzzle(task: Task, puzzle: Sequence[int]) -> bytes:
    """A puzzle as tokens, one byte a cell.

    Raises:
        ConfigError: it has another length, holds what is no token, or cannot be solved.
    """
    if len(puzzle) != task.cells:
        raise ConfigError(f"puzzle: found {len(puzzle)} cells, expected {task.cells} for {task.name} {task.size}")
    for cell, token in enumerate(puzzle):
        if not 0 <= token <= task.largest:
            raise ConfigError(f"puzzle: cell {cell + 1} holds {token}, expected 0 to {task.largest}")
    tokens = bytes(puzzle)
    task.check(tokens)
    return tokens
