"""What can be turned on a running service, from any thread, each with what it reads back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from premortem.core.errors import ConfigError, StageError
from premortem.stages.serve.cache import AnswerCache
from premortem.stages.serve.service.crew import Crew
from premortem.stages.serve.service.dispatch import Dispatch
from premortem.stages.serve.service.reply import Answer, Policy
from premortem.stages.serve.service.tasks import Task

T = TypeVar("T")
_PATIENCE_S = 5.0


class Controls:
    """Depth, caches, worker, policy. The readings are taken where they act, not where they were asked for."""

    crew: Crew
    dispatch: Dispatch
    cache: AnswerCache[Answer]
    tasks: dict[str, Task]
    _loop: asyncio.AbstractEventLoop | None

    # --- depth -------------------------------------------------------------------------------

    @property
    def deepest(self) -> int:
        """Segments that the deepest model may run."""
        return max((model.max_segments for model in self.crew.models.values()), default=0)

    @property
    def depth(self) -> int:
        """Segments of reasoning at most, for the next puzzle that a worker is asked."""
        return min(self.dispatch.depth, self.deepest) if self.dispatch.depth else self.deepest

    def set_depth(self, segments: int) -> None:
        """In force for every puzzle that is not at the worker yet; raises ConfigError outside 1 to the deepest."""
        if not 1 <= segments <= self.deepest:
            raise ConfigError(f"depth: found {segments}, expected 1 to {self.deepest} segments")

        def act() -> None:
            self.dispatch.depth = int(segments)

        self._on_loop(act)

    # --- caches ------------------------------------------------------------------------------

    def clear_cache(self) -> None:
        """Forget every answer, and hand memory back, here and in the worker. ``cache.clears`` counts it."""

        def act() -> None:
            self.cache.clear()
            if self.crew.current is not None:
                self.crew.current.forget()

        self._on_loop(act)

    # --- worker ------------------------------------------------------------------------------

    @property
    def restarts(self) -> int:
        """Workers that were replaced; each answered the canary puzzles as the first one did."""
        return self.crew.restarts

    @property
    def worker_pid(self) -> int:
        """Of the worker that answers; 0 while there is none."""
        link = self.crew.current
        return link.pid if link is not None else 0

    def restart_worker(self) -> Future[None]:
        """End the worker now and start another; what it owed is asked of the new one. Done when that one is warm."""
        return self._in_background(lambda: self.crew.restart())

    def reload_worker(self) -> Future[None]:
        """Start another worker beside this one and go over to it when it is warm; nobody waits meanwhile.

        The future raises ConfigError or StageError where the new one is not fit; the old one stays.
        """
        return self._in_background(lambda: self.crew.reload())

    # --- policy ------------------------------------------------------------------------------

    @property
    def policy(self) -> Policy:
        """``ppo`` where every task that has a fallback uses it, otherwise ``hrm``."""
        fallen = [self.dispatch.policies[task] == "ppo" for task in self.dispatch.standins]
        return "ppo" if fallen and all(fallen) else "hrm"

    def policy_of(self, task: str) -> Policy:
        """Who answers this task."""
        return self.dispatch.policies[task]

    def set_policy(self, policy: Policy, task: str | None = None) -> None:
        """Who answers from now on, for one task or for all; requests that wait go to the fallback too.

        Raises:
            ConfigError: no such policy or task, or a task without a fallback; nothing is changed then.
        """
        if policy not in ("hrm", "ppo"):
            raise ConfigError(f"policy: found {policy!r}, expected hrm or ppo")
        chosen = list(self.tasks) if task is None else [task]
        for name in chosen:
            if name not in self.tasks:
                raise ConfigError(f"policy for {name!r}: expected one of the tasks served, {', '.join(self.tasks)}")
            if policy == "ppo" and name not in self.dispatch.standins:
                raise ConfigError(
                    f"policy ppo for {name}: no fallback was trained on this task; start the service with one, or "
                    f"name another task"
                )

        def act() -> None:
            for name in chosen:
                self.dispatch.use(name, policy)

        self._on_loop(act)

    # --- inside ------------------------------------------------------------------------------

    def _on_loop(self, act: Callable[[], T]) -> T:
        """Carry it out on the service's loop; raises StageError where that does not come to it, and it never will."""
        loop = self._loop
        if loop is None or loop.is_closed() or not self.tasks:
            raise StageError("the service is not running: start it first")
        if _is_running_here(loop):
            return act()
        done: Future[T] = Future()

        def run() -> None:
            if not done.set_running_or_notify_cancel():
                return  # it was reported as failed: what comes late would surprise
            try:
                done.set_result(act())
            except BaseException as error:
                done.set_exception(error)

        loop.call_soon_threadsafe(run)
        try:
            return done.result(_PATIENCE_S)
        except TimeoutError as error:
            if not done.cancel():  # it is at it just now
                return done.result()
            raise StageError(f"the service's loop did not act within {_PATIENCE_S:g} s") from error

    def _in_background(self, begin: Callable[[], asyncio.Future[None]]) -> Future[None]:
        told: Future[None] = Future()

        def tell(task: asyncio.Future[None]) -> None:
            if task.cancelled():
                told.set_exception(StageError("the service was closed meanwhile"))
            elif (error := task.exception()) is not None:
                told.set_exception(error)
            else:
                told.set_result(None)

        def act() -> None:
            try:
                begin().add_done_callback(tell)
            except StageError as error:
                told.set_exception(error)

        self._on_loop(act)
        return told


def _is_running_here(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
