"""The fallback at work: whatever it does, each client is told, the next batch is tried, and the end is not held up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from premortem.stages.serve.service import Refused, Reply, Service, ServiceConfig
from premortem.stages.serve.service.standin import _MOST_HUNG
from premortem.stages.train.maze import shortest_answer

from .test_service import MAZE, Walk, account, play, until


class Fickle:
    """A fallback that does as it is told."""

    name = "fickle@1"

    def __init__(self) -> None:
        self.does = "solve"
        self.freed = threading.Event()

    def solve(self, puzzles: Sequence[bytes]) -> Sequence[Walk]:
        if self.does == "hang":
            self.freed.wait(120)
        if self.does == "raise":
            raise ArithmeticError("no way")
        if self.does == "stop":
            raise StopIteration
        if self.does == "exit":
            raise SystemExit(1)
        walks = [Walk(shortest_answer(puzzle), 8, reached=True) for puzzle in puzzles]
        if self.does == "miscount":
            return walks[1:]
        if self.does == "short":
            return [Walk(walks[0].tokens[1:], 8, reached=True), *walks[1:]]
        if self.does == "strange":
            return [Walk([999] * 25, 8, reached=True), *walks[1:]]  # type: ignore[arg-type]
        return walks


def service_with(bundle: Path, fallback: Fickle, silent_s: float = 60.0) -> Service:
    config = ServiceConfig(timeout_s=60, max_wait_s=60, cache=0, silent_s=silent_s)
    return Service([bundle], config, fallbacks={"maze": fallback})


def test_a_fallback_that_misbehaves_is_told_of_and_asked_again(maze_bundle: Path) -> None:
    fallback = Fickle()

    async def scene(service: Service) -> None:
        service.set_policy("ppo")
        faults = {
            "raise": "ArithmeticError: no way", "stop": "raised StopIteration", "exit": "raised SystemExit",
            "miscount": "gave 0 walks, expected 1", "short": "expected 25 cells as bytes",
            "strange": r"gave \[999.*expected 25 cells as bytes",
        }  # fmt: skip
        for fallback.does, said in faults.items():
            with pytest.raises(Refused, match=said) as told:
                await service.answer(MAZE)
            assert (told.value.reason, told.value.was_accepted) == ("model", True)
            assert "\n" not in str(told.value)
        fallback.does = "solve"
        assert (await service.answer(MAZE)).answer.valid
        fallback.does = "short"
        told = await asyncio.gather(*(service.answer(MAZE) for _ in range(3)), return_exceptions=True)
        assert [type(one) for one in told] == [Refused, Reply, Reply], "only whom it concerns"
        account(service)

    play(scene, service_with(maze_bundle, fallback))


def test_a_fallback_that_hangs_is_given_up_and_asked_again_in_another_thread(maze_bundle: Path) -> None:
    fallback = Fickle()

    async def scene(service: Service) -> None:
        service.set_policy("ppo")
        fallback.does = "hang"
        for _ in range(_MOST_HUNG):
            with pytest.raises(Refused, match=r"gave nothing within 0\.3 s"):
                await service.answer(MAZE)
        with pytest.raises(Refused, match="hangs over 3 batches"):
            await service.answer(MAZE)
        hung = [thread for thread in threading.enumerate() if thread.name == "fallback"]
        assert len(hung) == _MOST_HUNG
        fallback.does = "solve"
        fallback.freed.set()
        await until(lambda: not any(thread.is_alive() for thread in hung))
        assert (await service.answer(MAZE)).answer.valid
        account(service)

    play(scene, service_with(maze_bundle, fallback, silent_s=0.3))
    assert not [thread for thread in threading.enumerate() if thread.name == "fallback" and not thread.daemon]


def test_a_fallback_that_hangs_does_not_hold_the_end_up(maze_bundle: Path) -> None:
    fallback = Fickle()

    async def main() -> None:
        service = service_with(maze_bundle, fallback)
        await service.start()
        service.set_policy("ppo")
        fallback.does = "hang"
        one = asyncio.ensure_future(service.answer(MAZE))
        await until(lambda: service.pending == 1)
        await asyncio.wait_for(service.close(0.1), 60)
        with pytest.raises(Refused, match="shutting down"):
            await one
        account(service)
        await until(lambda: any(thread.name == "fallback" for thread in threading.enumerate()))

    asyncio.run(main())
    fallback.freed.set()  # its answer comes to a loop that is gone: nobody minds


def test_who_insists_on_the_model_is_not_given_a_walk(maze_bundle: Path) -> None:
    async def scene(service: Service) -> None:
        service.set_policy("ppo")
        with pytest.raises(Refused, match="now fickle@1 answers for maze") as told:
            await service.answer(MAZE, model=maze_bundle.name)
        assert told.value.reason == "model"
        assert isinstance(await service.answer(MAZE), Reply)

    play(scene, service_with(maze_bundle, Fickle()))


def test_it_has_solved_every_size_of_batch_before_anybody_needs_it(maze_bundle: Path) -> None:
    sizes: list[int] = []

    class Counting(Fickle):
        def solve(self, puzzles: Sequence[bytes]) -> Sequence[Walk]:
            sizes.append(len(puzzles))
            return super().solve(puzzles)

    async def scene(service: Service) -> None:
        await until(lambda: len(sizes) == 5)
        service.set_policy("ppo")
        assert (await service.answer(MAZE)).answer.valid

    play(scene, service_with(maze_bundle, Counting()))
    assert sizes == [1, 2, 4, 8, 16, 1]
