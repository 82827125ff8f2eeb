"""The service: what a client may rely on while its worker is killed, stopped, renewed or replaced by the fallback."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest
import torch

from premortem.core.errors import ConfigError, StageError
from premortem.stages.serve import Reasoner
from premortem.stages.serve.clients import seeded_bundle
from premortem.stages.serve.service import MazeWalks, Refused, Reply, Service, ServiceConfig, Unknown, running, tasks
from premortem.stages.serve.service.book import Counts
from premortem.stages.serve.service.drain import Drain
from premortem.stages.train.hrm import HRM
from premortem.stages.train.hrm.card import read_card, save_model
from premortem.stages.train.maze import shortest_answer
from premortem.stages.train.ppo import PPOPolicy, WalkNet, WalkNetConfig

from .conftest import CONFIG, save_tiny

MAZE = [2, 1, 1, 0, 3, 0, 0, 1, 0, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 1, 1, 1, 1, 1, 1]
PATIENT = ServiceConfig(timeout_s=60, max_wait_s=60)


def play(scene: Callable[[Service], Awaitable[None]], service: Service) -> None:
    """A service from start to close, with a scene between."""

    async def main() -> None:
        async with running(service, grace_s=20):
            await scene(service)

    asyncio.run(main())


def account(service: Service) -> None:
    """accepted = answered + refused after acceptance + withdrawn + waiting."""
    counts = service.book.counts
    settled = sum(counts.answered.values()) + sum(counts.broken.values()) + counts.withdrawn
    assert counts.accepted == settled + service.pending


async def until(holds: Callable[[], bool]) -> None:
    for _ in range(3000):
        if holds():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came to that")


async def ask_all(service: Service, puzzles: Sequence[Sequence[int]]) -> list[Reply | BaseException]:
    return await asyncio.gather(*(service.answer(puzzle) for puzzle in puzzles), return_exceptions=True)


def by_the_model(bundle: Path, puzzles: Sequence[Sequence[int]], segments: int) -> list[bytes]:
    reasoner = Reasoner(bundle, read_card(bundle).config)
    thoughts = reasoner.think(torch.tensor(puzzles), [segments] * len(puzzles), [None] * len(puzzles))
    return [thought.tokens for thought in thoughts]


def test_an_answer_is_the_models_own_and_says_how_it_came_to_be(sudoku_bundle: Path, asked: list[list[int]]) -> None:
    async def scene(service: Service) -> None:
        told = [reply for reply in await ask_all(service, asked[:40]) if isinstance(reply, Reply)]
        assert [reply.answer.tokens for reply in told] == by_the_model(sudoku_bundle, asked[:40], 4)
        first = told[0]
        assert (first.task, first.depth, first.cached, first.answer.policy) == ("sudoku", 4, False, "hrm")
        assert first.answer.model.startswith("step-00000007@")
        assert first.answer.load == 1
        assert 1 <= first.answer.segments <= 4
        assert first.answer.halted == (first.answer.segments < 4) or first.answer.segments == 4
        assert not first.answer.valid, "an untrained model is not right, and the service says so"
        assert first.scores["hrm"].answered == 40
        assert max(reply.answer.batch for reply in told) > 1, "puzzles that come together are computed together"
        again = await service.answer(asked[0])
        assert again.cached
        assert again.answer == first.answer
        assert service.samples.quantile(0.5) is not None
        assert service.samples.quantile(0.95) is None, "41 samples are too few for it"
        account(service)

    play(scene, Service([sudoku_bundle], PATIENT))


def test_a_right_answer_is_said_to_be_right(sudoku_bundle: Path) -> None:
    async def scene(service: Service) -> None:
        task = service.tasks["sudoku"]
        solved = bytes([1, 2, 3, 4, 3, 4, 1, 2, 2, 1, 4, 3, 4, 3, 2, 1])
        assert task.is_right(bytes([1, *[0] * 15]), solved)
        assert not task.is_right(bytes([2, *[0] * 15]), solved), "it changed a clue"
        assert not task.is_right(bytes(16), bytes([1] * 16)), "it breaks the rules"

    play(scene, Service([sudoku_bundle], PATIENT))


def test_a_killed_worker_loses_nothing(sudoku_bundle: Path, asked: list[list[int]]) -> None:
    async def scene(service: Service) -> None:
        os.kill(service.worker_pid, signal.SIGSTOP)  # so that it surely has them when it is killed
        waiting = asyncio.gather(*(service.answer(puzzle) for puzzle in asked[:60]))
        await until(lambda: service.pending == 60)
        old = service.worker_pid
        os.kill(old, signal.SIGKILL)
        told = await waiting
        assert [reply.answer.tokens for reply in told] == by_the_model(sudoku_bundle, asked[:60], 4)
        assert {reply.answer.load for reply in told} == {2}
        assert service.worker_pid not in (0, old)
        assert (service.crew.deaths, service.restarts) == (1, 1)
        assert service.book.counts.retried == 32, "what the worker had; the others had not left the queue"
        account(service)

    play(scene, Service([sudoku_bundle], PATIENT))


def test_a_request_over_which_two_workers_ended_is_refused_with_that_reason(
    sudoku_bundle: Path, asked: list[list[int]]
) -> None:
    async def scene(service: Service) -> None:
        os.kill(service.worker_pid, signal.SIGSTOP)
        waiting = [asyncio.ensure_future(service.answer(puzzle)) for puzzle in asked[:2]]
        await until(lambda: service.crew.current is not None and len(service.crew.current.at_work) == 2)
        one, other = waiting
        pending = service.book.get(1)
        assert pending is not None
        pending.tries += 1  # as if a worker had ended over it before
        os.kill(service.worker_pid, signal.SIGKILL)
        with pytest.raises(Refused, match="ended twice") as told:
            await one
        assert (told.value.reason, told.value.was_accepted) == ("worker", True)
        assert (await other).answer.load == 2
        account(service)

    play(scene, Service([sudoku_bundle], PATIENT))


def test_a_stopped_worker_is_seen_and_ended_by_the_watchdog(sudoku_bundle: Path, asked: list[list[int]]) -> None:
    async def scene(service: Service) -> None:
        await service.answer(asked[1])
        assert service.silent_s == 0.0, "it owes nothing"
        os.kill(service.worker_pid, signal.SIGSTOP)
        one = asyncio.ensure_future(service.answer(asked[0]))
        await until(lambda: service.silent_s > 0.3)
        assert service.oldest_s > 0.3
        assert (await one).answer.load == 2
        assert (service.crew.wedged, service.restarts) == (1, 1)
        account(service)

    play(scene, Service([sudoku_bundle], ServiceConfig(timeout_s=60, max_wait_s=60, silent_s=1.0)))


def test_who_gets_no_answer_in_time_is_told_so(sudoku_bundle: Path, asked: list[list[int]]) -> None:
    async def scene(service: Service) -> None:
        os.kill(service.worker_pid, signal.SIGSTOP)
        told = await asyncio.gather(
            *(service.answer(p, timeout_s=0.2) for p in asked[:5]), service.answer(asked[6]), return_exceptions=True
        )
        assert [type(t).__name__ for t in told] == ["Refused"] * 5 + ["Reply"], "another's time is not theirs"
        assert all(isinstance(t, Refused) and t.reason == "timeout" and t.was_accepted for t in told[:5])
        assert service.book.counts.broken == {"timeout": 5}
        assert len(service.samples) == 6, "who waited in vain counts with the time that it waited"
        account(service)

    play(scene, Service([sudoku_bundle], ServiceConfig(timeout_s=60, max_wait_s=60, silent_s=1.5)))


def test_a_full_queue_refuses_at_the_door_and_says_when_to_come_back(
    sudoku_bundle: Path, asked: list[list[int]]
) -> None:
    async def scene(service: Service) -> None:
        os.kill(service.worker_pid, signal.SIGSTOP)
        waiting = asyncio.gather(*(service.answer(puzzle) for puzzle in asked[:10]))
        await until(lambda: service.pending == 10)
        with pytest.raises(Refused, match="queue is full: 10 requests wait") as told:
            await service.answer(asked[11])
        assert (told.value.reason, told.value.was_accepted) == ("full", False)
        assert told.value.retry_after_s > 0
        os.kill(service.worker_pid, signal.SIGCONT)
        assert len(await waiting) == 10
        assert service.book.counts.refused == {"full": 1}
        account(service)

    play(scene, Service([sudoku_bundle], ServiceConfig(queue=10, timeout_s=60, max_wait_s=60)))


def test_a_wait_that_would_be_too_long_by_the_measured_rate_is_refused(
    sudoku_bundle: Path, asked: list[list[int]]
) -> None:
    async def scene(service: Service) -> None:
        os.kill(service.worker_pid, signal.SIGSTOP)
        waiting = asyncio.gather(*(service.answer(puzzle) for puzzle in asked[:10]))
        await until(lambda: service.pending == 10)
        seconds = iter([0.0, *[1.0] * 9])
        service.drain = Drain(lambda: next(seconds))
        service.drain.answered(5, is_full=True)
        service.drain.answered(5, is_full=True)
        with pytest.raises(Refused, match=r"about 2\.00 s by the rate") as told:
            await service.answer(asked[11], timeout_s=1.5)
        assert told.value.reason == "slow"
        assert told.value.retry_after_s == pytest.approx(0.5)
        os.kill(service.worker_pid, signal.SIGCONT)
        await waiting

    play(scene, Service([sudoku_bundle], PATIENT))


def test_a_renewed_worker_takes_over_without_a_gap(sudoku_bundle: Path, asked: list[list[int]]) -> None:
    async def scene(service: Service) -> None:
        old, renewed = service.worker_pid, asyncio.wrap_future(service.reload_worker())
        asked_meanwhile = 0
        while not renewed.done():
            assert service.is_ready, "the old one answers until the new one is warm"
            service.clear_cache()
            await service.answer(asked[asked_meanwhile % len(asked)])
            asked_meanwhile += 1
        await renewed
        assert asked_meanwhile > 1
        assert service.worker_pid != old
        assert (await service.answer(asked[0])).answer.tokens == by_the_model(sudoku_bundle, asked[:1], 4)[0]
        assert service.restarts == 1
        await until(lambda: len(service.crew._links) == 1)
        assert service.book.counts.broken == {}

    play(scene, Service([sudoku_bundle], PATIENT))


def test_a_worker_that_dies_while_it_is_renewed_leaves_one_behind_it_and_not_two(
    sudoku_bundle: Path, asked: list[list[int]]
) -> None:
    async def scene(service: Service) -> None:
        renewed = asyncio.wrap_future(service.reload_worker())
        await until(lambda: len(service.crew._links) == 2)
        os.kill(service.worker_pid, signal.SIGKILL)
        await renewed
        await until(lambda: service.restarts == 2)
        await until(lambda: len(service.crew._links) == 1)
        assert service.worker_pid == next(iter(service.crew._links)).pid
        assert (await service.answer(asked[0])).answer.tokens == by_the_model(sudoku_bundle, asked[:1], 4)[0]

    play(scene, Service([sudoku_bundle], PATIENT))


def test_a_worker_whose_canaries_differ_is_not_believed(tmp_path: Path, asked: list[list[int]]) -> None:
    bundle = save_tiny(tmp_path / "model", CONFIG, "sudoku", 4)

    async def scene(service: Service) -> None:
        weights = bundle / "model.safetensors"
        weights.rename(tmp_path / "aside")
        with pytest.raises(StageError, match="missing files"):
            await asyncio.wrap_future(service.reload_worker())
        assert service.is_ready, "the old one stays"
        (tmp_path / "aside").rename(weights)
        shutil.rmtree(bundle)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            assert save_model(bundle.parent, 7, HRM(CONFIG), task="sudoku", size=4) == bundle
        with pytest.raises(StageError, match="canary puzzles do not come out as at the first start"):
            await asyncio.wrap_future(service.reload_worker())
        assert (await service.answer(asked[0])).answer.load == 1

    play(scene, Service([bundle], PATIENT))


def test_depth_is_in_force_at_once_and_read_back_where_it_acts(sudoku_bundle: Path, asked: list[list[int]]) -> None:
    async def scene(service: Service) -> None:
        assert (service.depth, service.deepest) == (4, 4)
        service.set_depth(1)
        told = await service.answer(asked[0])
        assert (told.depth, told.answer.segments, service.dispatch.depth_in_force) == (1, 1, 1)
        assert told.answer.tokens == by_the_model(sudoku_bundle, asked[:1], 1)[0]
        service.set_depth(4)
        deeper = await service.answer(asked[0])
        assert deeper.answer.tokens == by_the_model(sudoku_bundle, asked[:1], 4)[0]
        assert not deeper.cached or told.answer.halted, "a shallow answer does not serve a deep question"
        for wrong in (0, 5):
            with pytest.raises(ConfigError, match=f"depth: found {wrong}, expected 1 to 4"):
                service.set_depth(wrong)

    play(scene, Service([sudoku_bundle], PATIENT))


def test_controls_can_be_turned_from_another_thread(sudoku_bundle: Path, asked: list[list[int]]) -> None:
    async def scene(service: Service) -> None:
        await service.answer(asked[0])
        assert len(service.cache) == 1
        errors: list[BaseException] = []

        def turn() -> None:
            try:
                service.set_depth(2)
                service.clear_cache()
                service.restart_worker().result(60)
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=turn)
        thread.start()
        await until(lambda: not thread.is_alive())
        assert errors == []
        assert (service.depth, len(service.cache), service.cache.clears, service.restarts) == (2, 0, 1, 1)
        assert (await service.answer(asked[0])).answer.load == 2

    play(scene, Service([sudoku_bundle], PATIENT))
    with pytest.raises(StageError, match="is not running"):
        Service([sudoku_bundle]).clear_cache()


@dataclass(frozen=True)
class Walk:
    tokens: bytes
    steps: int
    reached: bool


class ShortestWalks:
    """A fallback that is always right; ``held`` keeps it from answering."""

    name = "walks@1"

    def __init__(self) -> None:
        self.held = threading.Event()
        self.held.set()

    def solve(self, puzzles: Sequence[bytes]) -> Sequence[Walk]:
        self.held.wait(30)
        return [Walk(shortest_answer(puzzle), 8, True) for puzzle in puzzles]


def test_the_fallback_answers_when_it_is_chosen_even_what_a_wedged_worker_holds(maze_bundle: Path) -> None:
    async def scene(service: Service) -> None:
        os.kill(service.worker_pid, signal.SIGSTOP)
        one = asyncio.ensure_future(service.answer(MAZE))
        await until(lambda: service.silent_s > 0)
        service.set_policy("ppo")
        told = await one
        assert (told.answer.policy, told.answer.model, told.answer.valid) == ("ppo", "walks@1", True)
        assert (told.answer.steps, told.answer.segments, told.answer.load) == (8, 0, 0)
        assert told.scores["ppo"].solve_rate == 1.0
        os.kill(service.worker_pid, signal.SIGCONT)
        service.set_policy("hrm")
        back = await service.answer(MAZE)
        assert (back.answer.policy, service.policy) == ("hrm", "hrm")
        assert (back.scores["hrm"].answered, back.scores["ppo"].answered) == (1, 1)
        account(service)

    play(scene, Service([maze_bundle], PATIENT, fallbacks={"maze": ShortestWalks()}))


def test_a_trained_walker_stands_in_from_its_file(maze_bundle: Path, tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        PPOPolicy(WalkNet(WalkNetConfig(channels=4, rounds=2))).save(tmp_path / "walker.safetensors")
    walks = MazeWalks.load(tmp_path / "walker.safetensors")

    async def scene(service: Service) -> None:
        service.set_policy("ppo")
        told = await service.answer(MAZE)
        expected = walks.policy.solve(MAZE)
        assert (told.answer.tokens, told.answer.steps, told.answer.halted) == (
            expected.tokens, expected.steps, expected.reached,
        )  # fmt: skip
        assert told.answer.valid == expected.reached
        assert told.answer.model == f"walker@{walks.policy.sha256[:8]}"

    play(scene, Service([maze_bundle], PATIENT, fallbacks={"maze": walks}))
    with pytest.raises(ConfigError, match="found no file there, expected a fallback policy for mazes"):
        MazeWalks.load(tmp_path / "none")


def test_a_fallback_is_only_for_what_it_was_trained_on(sudoku_bundle: Path, maze_bundle: Path) -> None:
    async def scene(service: Service) -> None:
        with pytest.raises(ConfigError, match="policy ppo for sudoku: no fallback was trained on this task"):
            service.set_policy("ppo")
        assert service.policy_of("maze") == "hrm", "nothing was changed"
        service.set_policy("ppo", "maze")
        assert (service.policy_of("maze"), service.policy_of("sudoku")) == ("ppo", "hrm")
        assert (await service.answer(MAZE, task="maze")).answer.policy == "ppo"
        with pytest.raises(Unknown, match="no task was named, expected one of maze, sudoku"):
            await service.answer(MAZE)

    play(scene, Service([sudoku_bundle, maze_bundle], PATIENT, fallbacks={"maze": ShortestWalks()}))

    async def misplaced() -> None:
        with pytest.raises(ConfigError, match="a fallback for 'maze': expected one of the tasks served, sudoku"):
            await Service([sudoku_bundle], fallbacks={"maze": ShortestWalks()}).start()

    asyncio.run(misplaced())


def test_closing_finishes_what_was_accepted_and_refuses_the_rest_with_the_reason(
    sudoku_bundle: Path, asked: list[list[int]]
) -> None:
    async def main() -> None:
        service = Service([sudoku_bundle], PATIENT)
        await service.start()
        os.kill(service.worker_pid, signal.SIGSTOP)  # so that all of them wait when the end begins
        waiting = asyncio.ensure_future(ask_all(service, asked[:40]))
        await until(lambda: service.pending == 40)
        closing = asyncio.ensure_future(service.close(20))
        await asyncio.sleep(0)
        os.kill(service.worker_pid, signal.SIGCONT)
        with pytest.raises(Refused, match="shutting down"):
            await service.answer(asked[41])
        assert all(isinstance(told, Reply) for told in await waiting)
        await closing

        service = Service([sudoku_bundle], PATIENT)
        await service.start()
        os.kill(service.worker_pid, signal.SIGSTOP)
        waiting = asyncio.ensure_future(ask_all(service, asked[:3]))
        await until(lambda: service.pending == 3)
        await service.close(0.1)
        told = await waiting
        assert [t.reason for t in told if isinstance(t, Refused)] == ["closing"] * 3
        account(service)

    asyncio.run(main())


def test_a_client_that_leaves_is_counted_as_such(sudoku_bundle: Path, asked: list[list[int]]) -> None:
    async def scene(service: Service) -> None:
        os.kill(service.worker_pid, signal.SIGSTOP)
        one = asyncio.ensure_future(service.answer(asked[0]))
        await until(lambda: service.pending == 1)
        one.cancel()
        await asyncio.gather(one, return_exceptions=True)
        assert (service.pending, service.book.counts.withdrawn) == (0, 1)
        os.kill(service.worker_pid, signal.SIGCONT)
        assert isinstance(await service.answer(asked[1]), Reply)
        account(service)

    play(scene, Service([sudoku_bundle], PATIENT))


@pytest.mark.parametrize(
    ("puzzle", "said"),
    [
        ([1, 1, *[0] * 14], "unsolvable: row 1 holds the digit 1 twice"),
        ([1, 0, 0, 0, 1, *[0] * 11], "unsolvable: column 1 holds the digit 1 twice"),
        ([1, 0, 0, 0, 0, 1, *[0] * 10], "unsolvable: box 1 holds the digit 1 twice"),
        ([1, 2, 3, 0, 0, 0, 0, 4, *[0] * 8], "unsolvable: the clues leave no solution"),
        ([0] * 15, "found 15 cells, expected 16"),
        ([5, *[0] * 15], "cell 1 holds 5, expected 0 to 4"),
        ([-1, *[0] * 15], "cell 1 holds -1, expected 0 to 4"),
    ],
)
def test_what_is_no_solvable_sudoku_is_told_in_one_line(puzzle: list[int], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        tasks.read_puzzle(tasks.task_for("sudoku", 4), puzzle)


def test_a_puzzle_that_is_hard_to_refute_does_not_hold_the_service_up(monkeypatch: pytest.MonkeyPatch) -> None:
    sudoku, unsolvable = tasks.Sudoku(4), bytes([1, 2, 3, 0, 0, 0, 0, 4, *[0] * 8])
    with pytest.raises(ConfigError, match="no solution"):
        sudoku.check(unsolvable)
    monkeypatch.setattr(tasks, "_PATIENCE", 0)
    sudoku.check(unsolvable)  # the search was cut short: undecided, so it is let through


def test_a_maze_without_a_way_is_unsolvable() -> None:
    with pytest.raises(ConfigError, match="unsolvable: maze: found no way from start to goal"):
        tasks.read_puzzle(tasks.task_for("maze", 3), [2, 0, 3, 0, 0, 1, 1, 1, 1])
    with pytest.raises(ConfigError, match="found 2 starts"):
        tasks.read_puzzle(tasks.task_for("maze", 3), [2, 2, 3, 1, 1, 1, 1, 1, 1])


def test_what_cannot_be_served_is_told_at_the_start(tmp_path: Path, sudoku_bundle: Path) -> None:
    async def fails(match: str, kind: type[Exception], *bundles: Path) -> None:
        with pytest.raises(kind, match=match):
            await Service(bundles, PATIENT).start()

    asyncio.run(fails("found no folder there; expected a checkpoint bundle", ConfigError, tmp_path / "none"))
    bare = seeded_bundle(tmp_path / "bare", CONFIG, 0)
    asyncio.run(fails("expected model and card", ConfigError, bare))
    chess = save_tiny(tmp_path / "chess", CONFIG, "chess", 4)
    asyncio.run(fails("task 'chess': expected one of maze, sudoku", ConfigError, chess))
    damaged = save_tiny(tmp_path / "damaged", CONFIG, "sudoku", 4)
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    asyncio.run(fails("does not match its hash|cut or grown", StageError, damaged))
    with pytest.raises(ConfigError, match="no bundle was given"):
        Service([])
    with pytest.raises(ConfigError, match="setting queue: found 0, expected at least 1"):
        ServiceConfig(queue=0)


def _signal(service: Service, number: int) -> None:
    """To the worker, where one lives at this moment."""
    if service.worker_pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(service.worker_pid, number)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_accounts_hold_whatever_happens_to_clients_and_worker(
    sudoku_bundle: Path, asked: list[list[int]], seed: int
) -> None:
    """A seeded storm: clients come and go, the worker is killed, stopped and renewed; nobody is forgotten."""

    async def scene(service: Service) -> None:
        draw, clients, loops = Random(seed), [], 0

        def ask() -> None:
            timeout_s = draw.choice([0.05, 60.0])
            some = draw.sample(asked, draw.randint(1, 30))
            clients.extend(asyncio.ensure_future(service.answer(puzzle, timeout_s=timeout_s)) for puzzle in some)

        def send(number: int) -> Callable[[], None]:
            return lambda: _signal(service, number)

        def leave() -> None:
            draw.choice(clients).cancel()

        acts = [ask] * 5 + [leave, service.clear_cache, send(signal.SIGSTOP), send(signal.SIGCONT)]
        storm = [ask, *(draw.choice(acts) for _ in range(40))]
        storm[draw.randint(10, 30)] = send(signal.SIGKILL)
        for act in storm:
            act()
            await asyncio.sleep(draw.choice([0.0, 0.01, 0.05]))
            account(service)
            loops += 1
        _signal(service, signal.SIGCONT)
        told = await asyncio.gather(*clients, return_exceptions=True)
        assert loops == 41
        assert all(isinstance(t, Reply | Refused | asyncio.CancelledError) for t in told)
        assert service.pending == 0
        account(service)
        counts = service.book.counts
        assert counts.accepted == len(clients) - sum(counts.refused.values()) - never_asked(told, counts)

    play(scene, Service([sudoku_bundle], ServiceConfig(queue=200, timeout_s=60, max_wait_s=60, silent_s=2.0)))


def never_asked(told: list[Reply | BaseException], counts: Counts) -> int:
    """Clients that left before their turn came to ask at all."""
    return sum(isinstance(t, asyncio.CancelledError) for t in told) - counts.withdrawn
