from dataclasses import replace

import numpy as np
import pytest
import torch

from premortem.core.errors import ConfigError
from premortem.stages.serve import Reasoner, Solver
from premortem.stages.train.hrm import HRM
from premortem.stages.train.hrm.card import read_card
from premortem.stages.train.maze import MazeConfig, MazeSplit, is_shortest, make_split, steps_from
from premortem.stages.train.maze.recipe import (
    answer_with_hrm,
    lay_out_positions,
    maze_config,
    maze_data,
    maze_recipe,
    save_hrm,
    score,
    train_hrm,
)
from premortem.stages.train.maze.small import SMALL_CONFIG, SmallPair, small_pair
from premortem.stages.train.ppo import PPOPolicy


@pytest.fixture(scope="module")
def split() -> MazeSplit:
    return make_split(MazeConfig(size=5, train_layouts=40, held_out_layouts=20, unique=True))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> SmallPair:
    return small_pair(tmp_path_factory.mktemp("pair"), hrm_steps=5)


def test_a_trained_model_served_from_its_bundle_answers_as_it_did(split, tmp_path) -> None:
    trained = train_hrm(split, config=SMALL_CONFIG, recipe=replace(maze_recipe(5), steps=3), seed=1)
    bundle = save_hrm(tmp_path, trained)
    reasoner = Reasoner(bundle, read_card(bundle).config)
    answers = answer_with_hrm(trained.model, split.held_out)
    solver = Solver(reasoner)
    futures = [solver.submit(maze) for maze in split.held_out]
    while solver.work():
        pass
    assert [future.result().tokens for future in futures] == answers
    assert trained.steps == 3


def test_a_seed_gives_one_model_and_the_callers_stream_stays(split) -> None:
    recipe = replace(maze_recipe(5), steps=2, batch_size=8)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, again, other = (train_hrm(split, config=SMALL_CONFIG, recipe=recipe, seed=s).model for s in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_training_lowers_the_loss_on_its_mazes(split) -> None:
    losses = []

    def watch(step: int, model: HRM) -> None:
        if step in (1, 60):
            given = torch.from_numpy(split.train.mazes[:64])
            state = model.high_start.expand(len(given), 26, -1), model.low_start.expand(len(given), 26, -1)
            logits = model.segment(*state, given).logits
            labels = torch.from_numpy(split.train.answers[:64])
            losses.append(float(torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels).detach()))

    quick = replace(maze_recipe(5), steps=60, batch_size=32, learning_rate=5e-3, warmup_steps=10, ema_decay=0.9)
    train_hrm(split, config=SMALL_CONFIG, recipe=quick, watch=watch)
    assert losses[1] < 0.6 * losses[0]


@pytest.mark.parametrize("size", [5, 7])
def test_near_cells_begin_with_near_positions(size) -> None:
    torch.manual_seed(0)
    model = HRM(maze_config(size))
    assert model.embedding.positions is not None
    spread = float(model.embedding.positions.detach()[1:].square().mean())
    lay_out_positions(model)
    positions = model.embedding.positions.detach()[1:]
    assert float(positions.square().mean()) == pytest.approx(spread, rel=0.2)
    alike = positions @ positions.T
    for cell, row in enumerate(steps_from(size)):
        beside = alike[cell, [near for near in row if near >= 0]]
        assert float(beside.min()) == pytest.approx(float(beside.max()), rel=1e-4)
        assert int((alike[cell] > float(beside.max()) + 1e-4).sum()) == 1  # itself alone


def test_a_model_whose_positions_cannot_be_laid_out_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected learned positions"):
        lay_out_positions(HRM(replace(maze_config(5), positions="rotary")))


def test_no_minutes_is_no_training(split) -> None:
    assert train_hrm(split, config=SMALL_CONFIG, minutes=0.0).steps == 0


def test_a_score_counts_paths_and_shortest_paths(split) -> None:
    mazes = split.held_out
    right = [bytes(row) for row in mazes.answers.tolist()]
    assert (score(mazes, right).solved, score(mazes, right).shortest) == (1.0, 1.0)
    assert score(mazes, list(mazes)).solved == np.mean(mazes.lengths == 1)
    half = [answer if at % 2 else maze for at, (maze, answer) in enumerate(zip(mazes, right, strict=True))]
    assert score(mazes, half).shortest == pytest.approx(0.5, abs=0.05)
    with pytest.raises(ConfigError, match="0 mazes"):
        score(mazes, [])


def test_the_fallback_of_the_small_pair_solves_most_held_out_mazes(pair) -> None:
    policy = PPOPolicy.load(pair.policy)
    walks = policy.solve_all(list(pair.held_out))
    got = score(pair.held_out, [walk.tokens for walk in walks])
    assert got.num_mazes >= 150
    assert got.solved >= 0.8
    assert got.shortest >= 0.7
    assert got.solved == np.mean([walk.reached for walk in walks])


def test_the_hrm_of_the_small_pair_loads_into_the_worker(pair) -> None:
    solver = Solver(Reasoner(pair.bundle, pair.config))
    maze = next(iter(pair.held_out))
    future = solver.submit(maze)
    solver.work()
    assert len(future.result().tokens) == len(maze)
    assert isinstance(is_shortest(maze, future.result().tokens), bool)


@pytest.mark.parametrize("named", [maze_config, maze_recipe, maze_data])
def test_sizes_without_a_recipe_are_refused(named) -> None:
    with pytest.raises(ConfigError, match=r"maze size 9: expected one of \[5, 7\]"):
        named(9)
