import json
import subprocess
import sys
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from premortem.core.errors import ConfigError, StageError
from premortem.stages.train.maze import (
    FREE,
    GOAL,
    PATH,
    START,
    WALL,
    MazeConfig,
    MazeSplit,
    distances,
    draw_layout,
    is_shortest,
    is_solved,
    make_split,
    marked_path,
    place_ends,
    shortest_length,
    side_of,
    steps_from,
)
from premortem.stages.train.ppo import PPOPolicy, PPORecipe, Walker, WalkNet, WalkNetConfig
from premortem.stages.train.ppo.environment import ARRIVED, NEARER, STUCK, MazeWalk
from premortem.stages.train.ppo.training import export, make_agent, train_ppo

TINY = WalkNetConfig(channels=4, rounds=3)


@pytest.fixture(scope="module")
def split() -> MazeSplit:
    return make_split(MazeConfig(size=5, train_layouts=60, held_out_layouts=20))


@pytest.fixture
def policy() -> PPOPolicy:
    torch.manual_seed(3)
    return PPOPolicy(WalkNet(TINY), {"seed": "3"})


def drawn_maze(size: int, seed: int) -> bytes:
    rng = Random(seed)
    maze = place_ends(draw_layout(size, "corridors", rng), 2, rng)
    assert maze is not None
    return maze


# --- the walk ------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(size=st.sampled_from([5, 7]), seed=st.integers(0, 10**6))
def test_a_walk_treads_no_cell_twice_and_shows_where_it_was(size, seed) -> None:
    maze, rng = drawn_maze(size, seed), Random(seed)
    walker = Walker(maze)
    while not walker.reached and (moves := walker.open_moves()):
        before = walker.cell
        walker.step(rng.choice(moves))
        assert walker.cell in steps_from(size)[before]
        assert maze[walker.cell] != WALL
    assert len(set(walker.trail)) == len(walker.trail) <= len(maze)
    assert {cell for cell, token in enumerate(walker.view) if token == PATH} == set(walker.trail[:-1])
    assert [cell for cell, token in enumerate(walker.view) if token == START] == [walker.cell]
    walk = walker.walk()
    assert walk.steps == len(walker.trail) - 1
    assert walk.reached == walker.reached == is_solved(maze, walk.tokens)
    if walk.reached:
        path = marked_path(maze, walk.tokens)
        assert path is not None
        assert set(path) <= set(walker.trail)
    untouched = [(said, token) for said, token in zip(walk.tokens, maze, strict=True) if said != token]
    assert all(pair == (PATH, FREE) for pair in untouched)


# --- the policy ----------------------------------------------------------------------------------


def is_decided(policy: PPOPolicy, maze: bytes, margin: float = 1e-4) -> bool:
    """Whether no two moves were nearly as good on the way: the last bits of logits change with the size of a batch."""
    walker = Walker(maze)
    for _ in range(len(maze)):
        if walker.reached or not (moves := walker.open_moves()):
            return True
        best = policy.net(torch.from_numpy(walker.view)[None])[0][0].topk(2)
        if best.values[0] - best.values[1] < margin:
            return False
        walker.step(int(best.indices[0]))
        assert int(best.indices[0]) in moves
    return True


@settings(max_examples=15, deadline=None)
@given(seeds=st.lists(st.integers(0, 10**6), min_size=1, max_size=6), cap=st.integers(0, 6), net=st.integers(0, 3))
def test_walks_in_company_are_the_walks_alone_and_never_go_wrong(seeds, cap, net) -> None:
    torch.manual_seed(net)
    policy = PPOPolicy(WalkNet(TINY))
    mazes = [drawn_maze(5, seed) for seed in seeds]
    together = policy.solve_all(mazes, cap)
    for maze, walk in zip(mazes, together, strict=True):
        if is_decided(policy, maze):
            assert walk == policy.solve(maze, cap)
        assert walk.steps <= (cap or len(maze))
        if not walk.reached and is_solved(maze, walk.tokens):
            assert walk.steps == cap  # stopped beside the goal
        assert is_solved(maze, walk.tokens) or not walk.reached
        if walk.reached and walk.steps == shortest_length(maze):
            assert is_shortest(maze, walk.tokens)


def test_an_answer_rests_on_the_maze_and_the_weights_alone(policy) -> None:
    maze = drawn_maze(7, 1)
    first = policy.solve(maze)
    torch.manual_seed(99)
    assert policy.solve(list(maze)) == first == policy.solve(np.frombuffer(maze, np.uint8).tolist())


@settings(max_examples=40, deadline=None)
@given(size=st.sampled_from([5, 7]), seed=st.integers(0, 10**6), steps=st.integers(0, 8), net=st.integers(0, 3))
def test_moves_into_walls_and_trodden_cells_have_probability_zero(size, seed, steps, net) -> None:
    torch.manual_seed(net)
    walker, rng = Walker(drawn_maze(size, seed)), Random(seed)
    for _ in range(steps):
        if walker.reached or not walker.open_moves():
            return
        walker.step(rng.choice(walker.open_moves()))
    if walker.reached or not walker.open_moves():
        return
    logits, value = WalkNet(TINY)(torch.from_numpy(walker.view)[None])
    likely = logits.softmax(1)[0]
    assert [move for move in range(4) if likely[move] > 0] == walker.open_moves()
    assert value.shape == (1,)
    assert torch.isfinite(value).all()


@pytest.mark.parametrize(
    ("tokens", "match"),
    [
        (b"", "found 0 cells"),
        (bytes([START, GOAL] + [FREE] * 6), "found 8 cells"),
        (bytes([FREE] * 25), "found 0 starts"),
        (bytes([START, WALL, GOAL] + [WALL] * 22), "no way from start to goal"),
        ([9] * 25, "found token 9 in row 0, column 0"),
        ([[1]] * 25, "something else than whole numbers"),
    ],
)
def test_what_cannot_be_walked_is_refused_in_one_line(policy, tokens, match) -> None:
    with pytest.raises(ConfigError, match=match):
        policy.solve(tokens)


def test_no_maze_is_no_walk_and_two_sizes_are_a_mistake(policy) -> None:
    assert policy.solve_all([]) == []
    with pytest.raises(ConfigError, match="expected one size"):
        policy.solve_all([drawn_maze(5, 0), drawn_maze(7, 0)])


# --- the file ------------------------------------------------------------------------------------


def test_a_saved_policy_walks_as_before_and_says_where_it_comes_from(policy, split, tmp_path) -> None:
    file = tmp_path / "new" / "policy.safetensors"
    hashed = policy.save(file)
    again = PPOPolicy.load(file)
    assert again.origin == {"seed": "3"}
    assert again.sha256 == hashed == policy.sha256
    assert again.solve_all(list(split.held_out)) == policy.solve_all(list(split.held_out))


def spoil(file: Path, how: str) -> None:
    data = bytearray(file.read_bytes())
    if how == "missing":
        file.unlink()
    elif how == "cut":
        file.write_bytes(data[:-10])
    elif how == "a bit":
        data[-5] ^= 1
        file.write_bytes(data)
    elif how == "foreign":
        save_file({"weight": torch.zeros(3)}, file)
    elif how == "text":
        file.write_text("not a policy")
    elif how == "another size":
        net = json.dumps({"channels": 5, "rounds": 3})
        save_file(load_file(file), file, {"format": "premortem-ppo-1", "net": net, "origin": "{}", "sha256": ""})
    elif how == "other rounds":
        said = {"format": "premortem-ppo-1", "net": json.dumps({"channels": 4, "rounds": 2}), "origin": "{}"}
        save_file(load_file(file), file, {**said, "sha256": PPOPolicy.load(file).sha256})
    elif how == "unknown setting":
        save_file(load_file(file), file, {"format": "premortem-ppo-1", "net": '{"wings": 2}', "origin": "{}"})


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ("missing", "cannot be read"),
        ("cut", "cannot be read"),
        ("text", "cannot be read"),
        ("a bit", "do not match their hash"),
        ("foreign", "found no format"),
        ("another size", "expected the weights"),
        ("other rounds", "do not match their hash"),
        ("unknown setting", "expected the weights"),
    ],
)
def test_a_damaged_file_is_refused_by_name(policy, tmp_path, how, match) -> None:
    file = tmp_path / "policy.safetensors"
    policy.save(file)
    spoil(file, how)
    with pytest.raises(StageError, match=match) as caught:
        PPOPolicy.load(file)
    assert str(file) in str(caught.value)


def test_a_policy_that_is_not_finite_is_refused(policy, tmp_path) -> None:
    file = tmp_path / "policy.safetensors"
    with torch.no_grad():
        policy.net.worth.weight.fill_(float("nan"))
    policy.save(file)
    with pytest.raises(StageError, match="NaN or infinite"):
        PPOPolicy.load(file)


def test_serving_needs_neither_stable_baselines_nor_gymnasium() -> None:
    code = (
        "import sys, premortem.stages.train.ppo, premortem.stages.train.maze\n"
        "sys.exit(', '.join({'stable_baselines3', 'gymnasium'} & set(sys.modules)) or 0)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


# --- training ------------------------------------------------------------------------------------


def test_the_environment_keeps_to_gymnasiums_contract(split) -> None:
    check_env(MazeWalk(split.train), skip_render_check=True)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_rewards_add_up_to_the_way_made_and_the_view_tells_no_solution(seed) -> None:
    mazes = make_split(MazeConfig(size=5, train_layouts=3, held_out_layouts=1)).train
    environment, rng = MazeWalk(mazes), Random(seed)
    view, _ = environment.reset(seed=seed)
    maze, total, blocked, ended, cut = view.tobytes(), 0.0, 0, False, False
    while not (ended or cut):
        before = view.copy()
        view, reward, ended, cut, info = environment.step(rng.randrange(4))
        blocked += np.array_equal(before, view)
        total += reward
    away = distances(maze, maze.index(GOAL))
    here = int(np.flatnonzero(view == START)[0])
    expected = NEARER * (away[maze.index(START)] - away[here] - blocked)
    expected += ARRIVED if info["reached"] else STUCK if ended else 0.0
    assert total == pytest.approx(expected)
    changed = {(int(a), int(b)) for a, b in zip(maze, view.tobytes(), strict=True) if a != b}
    assert changed <= {(FREE, PATH), (START, PATH), (FREE, START), (GOAL, START)}


def test_the_exported_policy_moves_as_stable_baselines_predicts(split) -> None:
    trained = train_ppo(split.train, PPORecipe(512, TINY, n_envs=8, n_steps=32, batch_size=64), seed=1)
    rng, views = Random(0), []
    for maze in [*split.held_out, *split.train][:120]:
        walker = Walker(maze)
        while not walker.reached and (moves := walker.open_moves()):
            views.append(walker.view.copy())
            walker.step(rng.choice(moves))
    assert len(views) > 300
    theirs, _ = trained.agent.predict(np.stack(views), deterministic=True)
    assert trained.policy.moves(np.stack(views)) == theirs.tolist()
    assert trained.timesteps >= 512


def test_a_seed_gives_one_policy_and_the_callers_torch_stream_stays(split) -> None:
    recipe = PPORecipe(256, TINY, n_envs=8, n_steps=32, batch_size=64)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first, again = (train_ppo(split.train, recipe, seed=2).policy for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert first.sha256 == again.sha256
    untrained = export(make_agent(split.train, recipe, 2), {})
    assert untrained.sha256 != first.sha256
    assert first.origin["seed"] == "2"


def test_training_moves_every_weight(split) -> None:
    recipe = PPORecipe(256, TINY, n_envs=8, n_steps=32, batch_size=64)
    before = export(make_agent(split.train, recipe, 2), {}).net.state_dict()
    after = train_ppo(split.train, recipe, seed=2).policy.net.state_dict()
    assert {name for name in before if torch.equal(before[name], after[name])} <= {"worth.bias"}


def test_sizes_of_walks_are_those_of_their_mazes(policy) -> None:
    for size in (5, 7, 9, 31):
        maze = drawn_maze(size, 4)
        assert side_of(policy.solve(maze).tokens) == size


@pytest.mark.parametrize("config", [{"channels": 0}, {"rounds": 0}, {"rounds": 10**6}])
def test_a_net_without_size_is_refused(config) -> None:
    with pytest.raises(ConfigError, match="expected 1 to 1024"):
        WalkNetConfig(**config)
