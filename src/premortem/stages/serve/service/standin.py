"""The fallback policy at work: in a thread of its own, so that nothing about the worker can hold it up."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Protocol

import torch

from premortem.core.errors import ConfigError, StageError
from premortem.stages.serve.service.reply import Pending
from premortem.stages.train.ppo import PPOPolicy

_CLOSE_S = 1.0
_MOST_HUNG = 3
"""Threads that a policy may keep for ever; a thread cannot be ended from outside."""


class Walk(Protocol):
    """What a fallback came to: tokens of the answer, steps that it took, whether it says that it arrived."""

    @property
    def tokens(self) -> bytes: ...
    @property
    def steps(self) -> int: ...
    @property
    def reached(self) -> bool: ...


class Fallback(Protocol):
    """A policy that solves puzzles of one task without the Hierarchical Reasoning Model."""

    @property
    def name(self) -> str:
        """Version of the policy, for the replies."""
        ...

    def solve(self, puzzles: Sequence[bytes]) -> Sequence[Walk]:
        """One walk a puzzle, in order."""
        ...


@dataclass(frozen=True, slots=True)
class MazeWalks:
    """A trained :class:`PPOPolicy` as the fallback for mazes."""

    policy: PPOPolicy
    name: str

    @classmethod
    def load(cls, path: Path) -> MazeWalks:
        """Raises ConfigError for a file that is not there, StageError for one that is no policy."""
        if not path.is_file():
            raise ConfigError(f"{path}: found no file there, expected a fallback policy for mazes")
        policy = PPOPolicy.load(path)
        return cls(policy, f"{path.stem}@{policy.sha256[:8]}")

    def solve(self, puzzles: Sequence[bytes]) -> Sequence[Walk]:
        """One walk a maze, in order."""
        return self.policy.solve_all(puzzles)


class _Thread:
    """Solves batches one after another. A daemon: unlike an executor's it holds no end up when its policy hangs."""

    def __init__(self, fallback: Fallback) -> None:
        self._fallback, self._loop = fallback, asyncio.get_running_loop()
        self._batches: SimpleQueue[tuple[list[bytes], asyncio.Future[Sequence[Walk]]] | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name="fallback", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def solve(self, puzzles: list[bytes]) -> asyncio.Future[Sequence[Walk]]:
        told: asyncio.Future[Sequence[Walk]] = self._loop.create_future()
        self._batches.put((puzzles, told))
        return told

    def end(self) -> None:
        """After the batch at work, if that ever ends."""
        self._batches.put(None)

    def _run(self) -> None:
        # of this thread alone: on nets so small a second one helps nothing, and waits for a core that others use
        torch.set_num_threads(1)
        while (batch := self._batches.get()) is not None:
            puzzles, told = batch
            try:
                walks = self._fallback.solve(puzzles)
            except BaseException as error:
                is_plain = isinstance(error, Exception) and not isinstance(error, StopIteration)  # a future takes none
                self._tell(told, error if is_plain else StageError(f"the fallback raised {type(error).__name__}"))
            else:
                self._tell(told, walks)

    def _tell(self, told: asyncio.Future[Sequence[Walk]], came: Sequence[Walk] | BaseException) -> None:
        def tell() -> None:
            if told.done():
                return  # nobody waited so long
            if isinstance(came, BaseException):
                told.set_exception(came)
            else:
                told.set_result(came)

        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            self._loop.call_soon_threadsafe(tell)


class Standin:
    """Feeds a fallback in batches. Used on the service's loop alone.

    Whatever the fallback does, each request is told of it and the next batch is tried: it may fare better.

    Args:
        fallback: the policy.
        most: puzzles of one batch.
        patience_s: allowed for a batch. A policy that takes longer is given up, and asked again in another thread.
        on_walk: called on the loop with each request and its walk, and how many were computed together.
        on_fault: called on the loop with each request that could not be computed.
    """

    def __init__(
        self,
        fallback: Fallback,
        most: int,
        patience_s: float,
        on_walk: Callable[[Pending, Walk, int], None],
        on_fault: Callable[[Pending, Exception], None],
    ) -> None:
        self.fallback = fallback
        self._most, self._patience_s = most, patience_s
        self._on_walk, self._on_fault = on_walk, on_fault
        self._waiting: deque[Pending] = deque()
        self._thread: _Thread | None = None
        self._hung: list[_Thread] = []
        self._task: asyncio.Task[None] | None = None

    def warm_up(self, puzzle: bytes) -> None:
        """Have it solve what nobody asked, once at each size of a batch, without waiting for it.

        Its first clients come in an emergency: they should not pay for what it builds when it is first called.
        """
        thread, size = self._thread or _Thread(self.fallback), 1
        self._thread = thread
        while size < 2 * self._most:
            told = thread.solve(min(size, self._most) * [puzzle])
            told.add_done_callback(lambda done: done.cancelled() or done.exception())  # its clients will be told
            size *= 2

    def put(self, pending: Pending) -> None:
        """It is solved in its turn."""
        self._waiting.append(pending)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work())

    async def close(self) -> None:
        """End after the batch at work, or within a second; nobody waits for an answer any more."""
        self._waiting.clear()
        if self._task is not None:
            task = self._task
            await asyncio.wait({task}, timeout=_CLOSE_S)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if self._thread is not None:
            self._thread.end()

    async def _work(self) -> None:
        try:
            while self._waiting:
                taken = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
                if batch := [pending for pending in taken if not pending.future.done()]:
                    await self._solve(batch)
        finally:
            self._task = None

    async def _solve(self, batch: list[Pending]) -> None:
        try:
            walks = list(await self._walks([pending.puzzle for pending in batch]))
            if len(walks) != len(batch):
                raise StageError(f"the fallback gave {len(walks)} walks, expected {len(batch)}: one a puzzle")
        except Exception as error:
            for pending in batch:
                self._on_fault(pending, error)
            return
        for pending, walk in zip(batch, walks, strict=True):
            try:
                self._on_walk(pending, walk, len(batch))
            except Exception as error:
                self._on_fault(pending, error)

    async def _walks(self, puzzles: list[bytes]) -> Sequence[Walk]:
        self._hung = [thread for thread in self._hung if thread.is_alive]
        if len(self._hung) >= _MOST_HUNG:
            raise StageError(
                f"the fallback hangs over {len(self._hung)} batches, and is not asked until one comes back"
            )
        if self._thread is None:
            self._thread = _Thread(self.fallback)
        try:
            return await asyncio.wait_for(self._thread.solve(puzzles), self._patience_s)
        except TimeoutError as error:
            self._thread.end()
            self._hung.append(self._thread)
            self._thread = None
            raise StageError(f"the fallback gave nothing within {self._patience_s:g} s") from error
