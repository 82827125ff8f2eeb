from collections import Counter
from contextlib import suppress
from itertools import combinations
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from premortem.core.errors import ConfigError
from premortem.stages.train.maze import (
    FREE,
    GOAL,
    PATH,
    START,
    WALL,
    Difficulty,
    MazeConfig,
    canonical_form,
    count_shortest_paths,
    draw_layout,
    draw_text,
    gather,
    is_shortest,
    is_solved,
    make_split,
    mark,
    marked_path,
    place_ends,
    read_maze,
    shortest_answer,
    shortest_length,
    shortest_paths,
    variants,
)
from premortem.stages.train.maze.paths import without_shortcuts

SMALL = MazeConfig(size=5, train_layouts=60, held_out_layouts=20)


def parse(*rows: str) -> bytes:
    return bytes("#.SG*".index(mark) for mark in "".join(rows))


@st.composite
def mazes(draw: st.DrawFn, sizes: tuple[int, ...] = (3, 4)) -> bytes:
    """Any small square with one start and one goal, solvable or not: not of our own generator."""
    size = draw(st.sampled_from(sizes))
    cells = draw(st.lists(st.sampled_from([WALL, FREE, FREE]), min_size=size**2, max_size=size**2))
    start, goal = draw(st.permutations(range(size**2)))[:2]
    cells[start], cells[goal] = START, GOAL
    return bytes(cells)


def simple_paths(maze: bytes) -> list[tuple[int, ...]]:
    """Every path that enters no cell twice, by trying all: shares no code with the search."""
    size, goal = round(len(maze) ** 0.5), maze.index(GOAL)
    found, stack = [], [(maze.index(START),)]
    while stack:
        path = stack.pop()
        if path[-1] == goal:
            found.append(path)
            continue
        row, column = divmod(path[-1], size)
        for r, c in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            cell = r * size + c
            if 0 <= r < size and 0 <= c < size and maze[cell] != WALL and cell not in path:
                stack.append((*path, cell))
    return found


@settings(max_examples=150, deadline=None)
@given(maze=mazes())
def test_the_search_finds_exactly_the_shortest_of_all_paths(maze) -> None:
    every = simple_paths(maze)
    if not every:
        assert count_shortest_paths(maze) == 0
        with pytest.raises(ConfigError, match="no way from start to goal"):
            shortest_length(maze)
        return
    shortest = min(len(path) for path in every)
    expected = {path for path in every if len(path) == shortest}
    found = list(shortest_paths(maze))
    assert set(found) == expected
    assert len(found) == len(expected) == count_shortest_paths(maze)
    assert shortest_length(maze) == shortest - 1


@settings(max_examples=100, deadline=None)
@given(maze=mazes())
def test_every_shortest_path_is_right_and_a_longer_one_is_solved_only(maze) -> None:
    every = simple_paths(maze)
    for path in every:
        answer = mark(maze, path)
        is_best = len(path) == min(map(len, every))
        read = marked_path(maze, answer)
        assert read is None or read == path  # what is read is what was drawn
        assert is_solved(maze, answer) == (without_shortcuts(path, round(len(maze) ** 0.5)) == path)
        assert is_shortest(maze, answer) == is_best
        straight = without_shortcuts(path, round(len(maze) ** 0.5))
        assert is_solved(maze, mark(maze, straight))
        assert len(straight) <= len(path)


@settings(max_examples=60, deadline=None)
@given(maze=mazes(sizes=(3,)), data=st.data())
def test_no_set_of_marks_passes_that_is_not_a_path(maze, data) -> None:
    """All ways to mark free cells of a 3x3: those accepted are paths, and all of them are."""
    free = [cell for cell, token in enumerate(maze) if token == FREE]
    drawn = {mark(maze, path) for path in simple_paths(maze)}
    for count in range(len(free) + 1):
        for cells in combinations(free, count):
            if is_solved(maze, mark(maze, cells)):
                assert mark(maze, cells) in drawn


@settings(max_examples=60, deadline=None)
@given(maze=mazes(), cell=st.integers(0, 8), token=st.integers(0, 4))
def test_an_answer_that_changes_the_maze_is_no_answer(maze, cell, token) -> None:
    if not simple_paths(maze):
        return
    answer = bytearray(shortest_answer(maze))
    answer[cell] = token
    if (maze[cell], token) not in ((FREE, FREE), (FREE, PATH), (maze[cell], maze[cell])):
        assert not is_solved(maze, answer)
    assert not is_solved(maze, answer[:-1])


def test_a_branch_a_stray_mark_and_a_gap_are_no_path() -> None:
    maze = parse("S..", ".#.", "..G")
    assert is_shortest(maze, parse("S**", ".#*", "..G"))
    assert is_shortest(maze, parse("S..", "*#.", "**G"))
    assert not is_solved(maze, parse("S**", "*#*", "**G"))
    assert not is_solved(maze, parse("S*.", ".#*", "..G"))
    assert not is_solved(maze, parse("S**", ".#*", "*.G"))
    assert not is_solved(maze, maze)
    detour = parse("S...", "..#.", "....", "...G")
    longer = parse("S...", "*.#.", "***.", "..*G")
    assert is_solved(detour, longer)
    assert is_shortest(detour, longer)


@settings(max_examples=40, deadline=None)
@given(size=st.sampled_from([5, 7, 9]), kind=st.sampled_from(["corridors", "field"]), seed=st.integers(0, 10**6))
def test_generated_mazes_are_solvable_and_far_enough_apart(size, kind, seed) -> None:
    rng = Random(seed)
    layout = draw_layout(size, kind, rng)
    maze = place_ends(layout, 4, rng)
    if kind == "corridors":
        assert maze is not None
    if maze is None:
        return
    assert read_maze(maze, size) == maze
    assert shortest_length(maze) >= 4
    assert is_shortest(maze, shortest_answer(maze))
    assert set(layout) <= {WALL, FREE}


@settings(max_examples=40, deadline=None)
@given(maze=mazes())
def test_symmetric_mazes_have_one_form_and_paths_of_one_length(maze) -> None:
    turned = variants(maze)
    assert len(turned) == 8
    assert turned[0] == maze
    assert {canonical_form(other) for other in turned} == {canonical_form(maze)}
    assert {count_shortest_paths(other) for other in turned} == {count_shortest_paths(maze)}


def layouts(mazes: list[bytes]) -> set[bytes]:
    return {canonical_form(bytes(min(token, FREE) for token in maze)) for maze in mazes}


def test_no_layout_is_on_both_sides_turned_or_mirrored_neither() -> None:
    split = make_split(SMALL)
    assert (len(layouts(list(split.train))), len(layouts(list(split.held_out)))) == (60, 20)
    assert not layouts(list(split.train)) & layouts(list(split.held_out))
    assert not {v for maze in split.train for v in variants(maze)} & set(split.held_out)


def test_loops_make_shortest_another_question_than_solved() -> None:
    split = make_split(MazeConfig(size=7, train_layouts=40, held_out_layouts=10))
    longer = sum(
        any(len(path) > length + 1 and without_shortcuts(path, 7) == path for path in simple_paths(maze))
        for maze, length in list(zip(split.held_out, split.held_out.lengths, strict=True))[:10]
    )
    assert longer >= 3


def test_difficulty_is_the_length_in_sides() -> None:
    split = make_split(MazeConfig(size=7, train_layouts=150, held_out_layouts=10, kinds=("corridors",)))
    lengths = split.train.lengths
    assert lengths.min() >= 3
    assert (split.train.difficulty == np.minimum(lengths // 7, 2)).all()
    assert set(Counter(split.train.difficulty.tolist())) == set(Difficulty)


def test_the_same_config_gives_the_same_mazes_and_another_seed_others() -> None:
    first, again = make_split(SMALL), make_split(SMALL)
    other = make_split(MazeConfig(size=5, train_layouts=60, held_out_layouts=20, seed=1))
    assert np.array_equal(first.train.mazes, again.train.mazes)
    assert np.array_equal(first.held_out.answers, again.held_out.answers)
    assert not np.array_equal(first.held_out.mazes, other.held_out.mazes)


def test_batches_are_addressed_by_step_and_their_answers_are_those_of_the_turned_maze() -> None:
    split = make_split(SMALL)
    batches = split.batches(32, seed=5)
    given_mazes, answers = late = batches.batch(7)
    batches.batch(0)
    assert all(np.array_equal(a, b) for a, b in zip(late, batches.batch(7), strict=True))
    originals = {row.tobytes() for row in split.train.mazes}
    assert any(row.tobytes() not in originals for row in given_mazes)
    for maze, answer in zip(given_mazes, answers, strict=True):
        assert shortest_answer(bytes(maze.tolist())) == bytes(answer.tolist())


def test_a_maze_is_drawn_for_the_eye() -> None:
    maze = parse("S.#", "#..", "##G")
    assert draw_text(shortest_answer(maze)) == "S*#\n#**\n##G"


@pytest.mark.parametrize(
    ("given_tokens", "size", "match"),
    [
        (b"\x02\x03\x01", 0, r"found 3 cells, expected a square with a side of 3\.\.31"),
        (b"", 0, "found 0 cells"),
        (bytes(32 * 32), 0, "found 1024 cells"),
        (parse("S.G", "...", "..."), 7, r"found 9 cells, expected 49 cells \(7 x 7\)"),
        (parse("S.*", "...", "..G"), 0, "found token 4 in row 0, column 2"),
        (parse("...", "...", "..G"), 0, r"found 0 starts \(token 2\) and 1 goals"),
        (parse("SS.", "...", "..G"), 0, "found 2 starts"),
        ([1.5] * 9, 0, "something else than whole numbers"),
        ([300] * 9, 0, "something else than whole numbers"),
        ("S.G......", 0, "something else than whole numbers"),
    ],
)
def test_what_is_no_maze_is_told_in_one_line(given_tokens, size, match) -> None:
    with pytest.raises(ConfigError, match=match) as caught:
        read_maze(given_tokens, size)
    assert "\n" not in str(caught.value)


@settings(max_examples=200, deadline=None)
@given(tokens=st.one_of(st.binary(max_size=130), st.lists(st.integers(-5, 300), max_size=30)))
def test_whatever_is_sent_is_a_maze_or_one_clear_error(tokens) -> None:
    with suppress(ConfigError):
        assert read_maze(tokens) == bytes(tokens)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: MazeConfig(size=6), "expected an odd number"),
        (lambda: MazeConfig(size=3), "from 5 to 31"),
        (lambda: MazeConfig(train_layouts=0), "at least 1"),
        (lambda: MazeConfig(kinds=()), "expected some of"),
        (lambda: make_split(MazeConfig(size=5, train_layouts=10**4, kinds=("corridors",))), "ask for fewer"),
        (lambda: gather([parse("S#.", "##.", "..G")]), "no way from start to goal"),
    ],
)
def test_mistakes_are_named_with_what_was_expected(make, match) -> None:
    with pytest.raises(ConfigError, match=match):
        make()
