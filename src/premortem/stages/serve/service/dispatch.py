"""Where accepted requests go: the cache, the worker, or the fallback; and how they come back."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from premortem.core.errors import ConfigError
from premortem.stages.serve.service.frames import Failed, Message, Puzzle, Told
from premortem.stages.serve.service.frames import Thought as ToldThought
from premortem.stages.serve.service.link import Link
from premortem.stages.serve.service.reply import Answer, Pending, Policy
from premortem.stages.serve.service.standin import Fallback, Standin, Walk

if TYPE_CHECKING:
    from premortem.stages.serve.service.service import Service

_TRIES = 2
"""A request over which two workers ended is not asked of a third: it may be what ends them."""


class Dispatch:
    """Used on the service's loop alone."""

    def __init__(self, service: Service, fallbacks: Mapping[str, Fallback]) -> None:
        self.policies: dict[str, Policy] = {}
        self.depth = service.config.depth
        """Segments at most by the setting; 0 is the model's own limit."""
        self.depth_in_force = 0
        """Segments allowed to the newest puzzle that a worker was asked."""
        self.on_canary: Callable[[ToldThought], None] | None = None
        """Told of answers to puzzles with numbers below 0, which no client asked."""
        self.standins: dict[str, Standin] = {}
        self._service, self._fallbacks = service, fallbacks
        self._queue: deque[Pending] = deque()
        self._is_flushing = False

    def open(self) -> None:
        """Begin; raises ConfigError for a fallback of a task that is not served."""
        service = self._service
        for task, fallback in self._fallbacks.items():
            if task not in service.tasks:
                raise ConfigError(f"a fallback for {task!r}: expected one of the tasks served, "
                                  f"{', '.join(sorted(service.tasks))}")  # fmt: skip
            self.standins[task] = Standin(fallback, service.config.slots, self._walked, self._faulted)
        for task in service.tasks:
            self.policies[task] = "hrm"

    async def close(self) -> None:
        """End the fallbacks."""
        for standin in self.standins.values():
            await standin.close()

    def put(self, pending: Pending) -> None:
        """Answer it from the cache, or queue it with its task's policy."""
        policy = self.policies[pending.task]
        if policy == "hrm":
            pending.depth = self.depth_for(pending.task)
        known = self._service.cache.get(self._key(pending, policy))
        if known is not None and (policy == "ppo" or known.halted or known.segments >= pending.depth):
            self._service.book.answer(pending, known, cached=True)
        elif policy == "ppo":
            self.standins[pending.task].put(pending)
        else:
            self._queue.append(pending)
            self._flush_soon()

    def use(self, task: str, policy: Policy) -> None:
        """Whom the task's requests go to from now on; those that wait for a worker go to the fallback too."""
        self.policies[task] = policy
        if policy == "ppo":
            self._queue = deque(pending for pending in self._queue if pending.task != task)
            for pending in self._service.book.waiting():
                if pending.task == task:
                    self.standins[task].put(pending)

    def flush(self) -> None:
        """Give the worker as much as it can take: what thinks, and as much again, so that no place stays empty."""
        self._is_flushing = False
        link, service = self._service.crew.current, self._service
        if link is None:
            self._prune()
            return
        room = 2 * service.config.slots - len(link.at_work)
        puzzles = []
        while room > 0 and self._queue:
            pending = self._queue.popleft()
            if pending.future.done():
                continue
            pending.tries += 1
            pending.depth = self.depth_in_force = self.depth_for(pending.task)
            puzzles.append(Puzzle(pending.number, pending.task, pending.puzzle, pending.depth))
            room -= 1
        if puzzles:
            link.ask(puzzles)

    def heed(self, link: Link, message: Message) -> None:
        """What a worker said."""
        if isinstance(message, Told):
            for thought in message.thoughts:
                link.at_work.discard(thought.number)
                self._told(link, thought)
            is_full = bool(self._queue) or len(link.at_work) >= self._service.config.slots
            self._service.drain.answered(len(message.thoughts), time.monotonic(), is_full=is_full)
        elif isinstance(message, Failed):
            for number in message.numbers:
                link.at_work.discard(number)
                if (pending := self._service.book.get(number)) is not None:
                    self._service.book.refuse(pending, "model", message.error)
        self.flush()

    def lost(self, link: Link) -> None:
        """A worker is gone: what it owed is asked of the next one, ahead of the others, but not a second time."""
        self._service.drain.stopped()
        for number in sorted(link.at_work, reverse=True):
            pending = self._service.book.get(number)
            if pending is None or self.policies.get(pending.task) == "ppo":
                continue
            if pending.tries >= _TRIES:
                self._service.book.refuse(pending, "worker", f"{pending.tries} workers were asked")
                continue
            self._service.book.counts.retried += 1
            self._queue.appendleft(pending)
        link.at_work.clear()
        self._flush_soon()

    # --- inside ------------------------------------------------------------------------------

    def _flush_soon(self) -> None:
        if not self._is_flushing:  # all that arrive in one turn of the loop go in one frame
            self._is_flushing = True
            asyncio.get_running_loop().call_soon(self.flush)

    def _prune(self) -> None:
        """Without a worker nobody takes the expired ones out."""
        if len(self._queue) > 2 * self._service.config.queue:
            self._queue = deque(pending for pending in self._queue if not pending.future.done())

    def depth_for(self, task: str) -> int:
        """Segments that the next puzzle of this task is allowed."""
        most = self._service.crew.models[task].max_segments
        return min(self.depth, most) if self.depth else most

    def _key(self, pending: Pending, policy: Policy) -> bytes:
        if policy == "ppo":
            version = self.standins[pending.task].fallback.name
        else:
            version = self._service.crew.models[pending.task].version
        return b"\0".join((policy.encode(), pending.task.encode(), version.encode(), pending.puzzle))

    def _told(self, link: Link, thought: ToldThought) -> None:
        pending = self._service.book.get(thought.number)
        if pending is None:
            if thought.number < 0 and self.on_canary is not None:
                self.on_canary(thought)
            return
        version = self._service.crew.models[pending.task].version
        is_right = self._service.tasks[pending.task].is_right(pending.puzzle, thought.tokens)
        load, segments = link.spec.load, thought.segments
        answer = Answer(thought.tokens, "hrm", version, load, segments, None, thought.halted, thought.batch, is_right)
        self._service.cache.put(self._key(pending, "hrm"), answer)
        self._service.book.answer(pending, answer)

    def _walked(self, pending: Pending, walk: Walk, batch: int) -> None:
        is_right = self._service.tasks[pending.task].is_right(pending.puzzle, walk.tokens)
        name = self.standins[pending.task].fallback.name
        answer = Answer(walk.tokens, "ppo", name, 0, 0, walk.steps, walk.reached, batch, is_right)
        self._service.cache.put(self._key(pending, "ppo"), answer)
        self._service.book.answer(pending, answer)

    def _faulted(self, pending: Pending, error: Exception) -> None:
        self._service.book.refuse(pending, "model", f"{type(error).__name__}: {error}")
