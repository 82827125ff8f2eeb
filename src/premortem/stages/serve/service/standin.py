"""The fallback policy at work: in a thread of its own, so that nothing about the worker can hold it up."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from premortem.core.errors import ConfigError
from premortem.stages.serve.service.reply import Pending
from premortem.stages.train.ppo import PPOPolicy


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


class Standin:
    """Feeds a fallback in batches. Used on the service's loop alone.

    Args:
        fallback: the policy.
        most: puzzles of one batch.
        on_walk: called on the loop with each request and its walk, and how many were computed together.
        on_fault: called on the loop with each request of a batch that could not be computed.
    """

    def __init__(
        self,
        fallback: Fallback,
        most: int,
        on_walk: Callable[[Pending, Walk, int], None],
        on_fault: Callable[[Pending, Exception], None],
    ) -> None:
        self.fallback = fallback
        self._most, self._on_walk, self._on_fault = most, on_walk, on_fault
        self._waiting: deque[Pending] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="fallback")
        self._task: asyncio.Task[None] | None = None

    def put(self, pending: Pending) -> None:
        """It is solved in its turn."""
        self._waiting.append(pending)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work())

    async def close(self) -> None:
        """End after the batch at work."""
        self._waiting.clear()
        if self._task is not None:
            await self._task
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            taken = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
            batch = [pending for pending in taken if not pending.future.done()]
            puzzles = [pending.puzzle for pending in batch]
            if not puzzles:
                continue
            try:
                walks = await loop.run_in_executor(self._thread, self.fallback.solve, puzzles)
            except Exception as error:  # told to each client; the next batch may fare better
                for pending in batch:
                    self._on_fault(pending, error)
                continue
            for pending, walk in zip(batch, walks, strict=True):
                self._on_walk(pending, walk, len(batch))
        self._task = None
