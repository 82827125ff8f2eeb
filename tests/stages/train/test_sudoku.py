from itertools import product
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from premortem.core.errors import ConfigError
from premortem.stages.train.sudoku import (
    Difficulty,
    Grid,
    Shape,
    SudokuConfig,
    canonical_form,
    cell_symmetries,
    count_solutions,
    dig_puzzle,
    draw_grids,
    make_split,
    rate,
    shape_of,
    solutions,
)
from premortem.stages.train.sudoku.symmetry import draw_symmetries, transform

FOUR = shape_of(4)
ALL_FOUR = list(solutions(FOUR, (0,) * 16))
SMALL = {
    4: SudokuConfig(size=4, puzzles_per_grid=3),
    6: SudokuConfig(size=6, train_grids=20, held_out_grids=10, puzzles_per_grid=2, clues=(8, 20)),
    9: SudokuConfig(size=9, train_grids=2, held_out_grids=2, puzzles_per_grid=1, held_out_puzzles_per_grid=1),
}


def brute_force(puzzle: Grid) -> set[Grid]:
    """Solutions by trying all 4 ** blanks fillings: shares no code with the solver."""
    blanks = [cell for cell in range(16) if puzzle[cell] == 0]
    found = set()
    for digits in product((1, 2, 3, 4), repeat=len(blanks)):
        grid = list(puzzle)
        for cell, digit in zip(blanks, digits, strict=True):
            grid[cell] = digit
        rows = [grid[4 * r : 4 * r + 4] for r in range(4)]
        columns = [grid[c::4] for c in range(4)]
        boxes = [[grid[8 * a + 2 * b + d] for d in (0, 1, 4, 5)] for a in (0, 1) for b in (0, 1)]
        if all(sorted(unit) == [1, 2, 3, 4] for unit in rows + columns + boxes):
            found.add(tuple(grid))
    return found


@settings(max_examples=25, deadline=None)
@given(
    grid=st.sampled_from(ALL_FOUR),
    blanks=st.sets(st.integers(0, 15), max_size=7),
    change=st.tuples(st.integers(0, 15), st.integers(1, 4)),
)
def test_solver_finds_exactly_the_solutions_that_brute_force_finds(grid, blanks, change) -> None:
    puzzle = [0 if cell in blanks else digit for cell, digit in enumerate(grid)]
    puzzle[change[0]] = change[1]  # often makes it contradictory
    expected = brute_force(tuple(puzzle))
    found = list(solutions(FOUR, tuple(puzzle)))
    assert set(found) == expected
    assert len(found) == len(expected)
    assert count_solutions(FOUR, tuple(puzzle), limit=2) == min(2, len(expected))


def test_there_are_288_grids_of_size_4_in_two_classes_of_192_and_96() -> None:
    symmetries = cell_symmetries(FOUR)
    forms = [canonical_form(grid, symmetries) for grid in ALL_FOUR]
    assert len(set(ALL_FOUR)) == 288
    assert sorted(forms.count(form) for form in set(forms)) == [96, 192]


def test_canonical_forms_of_size_6_never_exceed_its_49_classes() -> None:
    shape = shape_of(6)
    symmetries = cell_symmetries(shape)
    forms = {canonical_form(grid, symmetries) for grid in draw_grids(shape, 150, Random(1))}
    assert len(symmetries) == 3456
    assert 30 <= len(forms) <= 49


@settings(max_examples=40, deadline=None)
@given(size=st.sampled_from([4, 4, 6, 6, 9]), seed=st.integers(0, 10**9))
def test_every_dug_puzzle_has_one_solution_and_no_clue_to_spare(size, seed) -> None:
    shape, rng = shape_of(size), Random(seed)
    (grid,) = draw_grids(shape, 1, rng)
    puzzle = dig_puzzle(shape, grid, rng)
    assert shape.is_solution(grid)
    assert list(solutions(shape, puzzle)) == [grid]
    clue = next(cell for cell in range(shape.cells) if puzzle[cell])
    fewer = tuple(0 if cell == clue else digit for cell, digit in enumerate(puzzle))
    assert count_solutions(shape, fewer) == 2


@pytest.mark.parametrize("size", [4, 6, 9])
def test_no_solution_grid_is_on_both_sides_and_every_puzzle_is_unique(size) -> None:
    split = make_split(SMALL[size])
    train = {row.tobytes() for row in split.train.solutions}
    held_out = {row.tobytes() for row in split.held_out.solutions}
    assert not train & held_out
    assert (len(train), len(held_out)) == (SMALL[size].train_grids, SMALL[size].held_out_grids)
    for puzzles in (split.train, split.held_out):
        for puzzle, solution in list(zip(puzzles.puzzles, puzzles.solutions, strict=True))[:200]:
            assert list(solutions(puzzles.shape, tuple(puzzle.tolist()))) == [tuple(solution.tolist())]


def test_augmentation_never_lands_on_a_held_out_grid_and_keeps_puzzles_valid() -> None:
    split = make_split(SMALL[4])
    held_out = {row.tobytes() for row in split.held_out.solutions}
    plain = {row.tobytes() for row in split.train.puzzles}
    batches = split.batches(64, seed=3)
    changed = 0
    for step in range(20):
        puzzles, answers = batches.batch(step)
        assert not {row.tobytes() for row in answers} & held_out
        assert ((puzzles == answers) | (puzzles == 0)).all()
        changed += sum(row.tobytes() not in plain for row in puzzles)
        for puzzle, answer in zip(puzzles[:8], answers[:8], strict=True):
            assert list(solutions(FOUR, tuple(puzzle.tolist()))) == [tuple(answer.tolist())]
    assert changed > 100


def test_unrestricted_augmentation_would_reach_held_out_grids_of_size_4() -> None:
    split = make_split(SMALL[4])
    held_out = {row.tobytes() for row in split.held_out.solutions}
    rng = np.random.default_rng(0)
    moved = transform(split.train.solutions[:500], *draw_symmetries(FOUR, 500, rng))
    assert any(row.tobytes() in held_out for row in moved)


def test_class_split_keeps_equivalent_grids_on_one_side() -> None:
    split = make_split(SudokuConfig(size=4, train_grids=150, held_out_grids=90, puzzles_per_grid=1, split="class"))
    symmetries = cell_symmetries(FOUR)
    sides = [
        {canonical_form(tuple(row.tolist()), symmetries) for row in side.solutions}
        for side in (split.train, split.held_out)
    ]
    assert len(sides[0]) == len(sides[1]) == 1
    assert not sides[0] & sides[1]


def test_the_same_config_gives_the_same_puzzles_and_another_seed_others() -> None:
    first, again = make_split(SMALL[6]), make_split(SMALL[6])
    other = make_split(SudokuConfig(size=6, train_grids=20, held_out_grids=10, puzzles_per_grid=2, seed=1))
    assert np.array_equal(first.train.puzzles, again.train.puzzles)
    assert np.array_equal(first.held_out.puzzles, again.held_out.puzzles)
    assert not np.array_equal(first.held_out.puzzles, other.held_out.puzzles)


def test_batches_are_addressed_by_step_in_any_order() -> None:
    batches = make_split(SMALL[6]).batches(16, seed=5)
    late = batches.batch(7)
    batches.batch(0)
    assert all(np.array_equal(a, b) for a, b in zip(late, batches.batch(7), strict=True))
    assert not np.array_equal(late[0], batches.batch(8)[0])


@pytest.mark.parametrize("size", [4, 6, 9])
def test_symmetries_turn_solutions_into_solutions(size) -> None:
    shape = shape_of(size)
    grids = np.array(draw_grids(shape, 1, Random(size)) * 50)
    moved = transform(grids, *draw_symmetries(shape, 50, np.random.default_rng(0)))
    assert all(shape.is_solution(tuple(row.tolist())) for row in moved)
    assert len({row.tobytes() for row in moved}) > 25


def test_rating_names_the_strongest_technique_needed() -> None:
    nine = shape_of(9)
    easy = "530070000600195000098000060800060003400803001700020006060000280000419005000080079"
    hardest = "800000000003600000070090200050007000000045700000100030001000068008500010090000400"
    easy_rating = rate(nine, tuple(map(int, easy)))
    hard_rating = rate(nine, tuple(map(int, hardest)))
    assert easy_rating.difficulty == Difficulty.NAKED
    assert (easy_rating.clues, easy_rating.naked, easy_rating.guesses) == (30, 51, 0)
    assert hard_rating.difficulty == Difficulty.GUESS
    assert hard_rating.guesses > 10


def test_a_hidden_single_is_rated_hidden() -> None:
    split = make_split(SMALL[6])
    rated = [rate(shape_of(6), tuple(row.tolist())) for row in split.held_out.puzzles]
    assert [int(r.difficulty) for r in rated] == split.held_out.difficulty.tolist()
    assert Difficulty.HIDDEN in {r.difficulty for r in rated}


def test_clue_ranges_leave_at_least_that_many_clues() -> None:
    split = make_split(SudokuConfig(size=4, puzzles_per_grid=4, clues=(9, 10)))
    clues = (split.train.puzzles > 0).sum(1)
    assert clues.min() >= 9
    assert (split.held_out.puzzles > 0).sum(1).max() <= 6


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Shape(6, 2, 2), "make box_rows"),
        (lambda: shape_of(5), r"size 5: expected one of \[4, 6, 9\]"),
        (lambda: make_split(SudokuConfig(size=4, train_grids=300)), "only 288"),
        (lambda: SudokuConfig(train_grids=0), "at least 1"),
        (lambda: SudokuConfig(clues=(5, 3)), "clue range"),
        (lambda: cell_symmetries(shape_of(9)), "split 9x9 puzzles by grid"),
        (lambda: count_solutions(FOUR, (1, 2)), "expected 16 cells"),
        (lambda: count_solutions(FOUR, (9,) * 16), "digits 0..4"),
        (lambda: rate(FOUR, (1, 1) + (0,) * 14), "no solution"),
        (lambda: make_split(SudokuConfig(size=4, train_grids=250, held_out_grids=30, split="class")), "ask for fewer"),
    ],
)
def test_mistakes_are_named_with_what_was_expected(make, match) -> None:
    with pytest.raises(ConfigError, match=match):
        make()
