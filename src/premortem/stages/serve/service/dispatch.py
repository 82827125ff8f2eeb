"""Where accepted requests go: the cache, the worker, or the fallback; and how they come back."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from premortem.core.errors import ConfigError, StageError
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
        """The setting under which a worker was asked its newest puzzle, whose own model may allow less."""
        self.on_canary: Callable[[ToldThought], None] | None = None
        """Told of answers to puzzles with numbers below 0, which no client asked."""
        self.standins: dict[str, Standin] = {}
        self._service, self._fallbacks = service, fallbacks
        self._queue: deque[Pending] = deque()
        self._insists: dict[int, str] = {}
        """The version that a client asked for, by number of its request."""
        self._is_flushing = False

    def open(self) -> None:
        """Begin; raises ConfigError for a fallback of a task that is not served."""
        service, config = self._service, self._service.config
        for task, fallback in self._fallbacks.items():
            if task not in service.tasks:
                raise ConfigError(f"a fallback for {task!r}: expected one of the tasks served, "
                                  f"{', '.join(sorted(service.tasks))}")  # fmt: skip
            standin = Standin(fallback, config.slots, config.silent_s, self._walked, self._faulted)
            standin.warm_up(service.tasks[task].example)
            self.standins[task] = standin
        for task in service.tasks:
            self.policies[task] = "hrm"

    async def close(self) -> None:
        """End the fallbacks."""
        for standin in self.standins.values():
            await standin.close()

    def put(self, pending: Pending, insists_on: str | None = None) -> None:
        """Answer it from the cache, or queue it with its task's policy; no other version than it insists on answers."""
        if insists_on is not None:
            self._insists[pending.number] = insists_on
            pending.future.add_done_callback(lambda _: self._insists.pop(pending.number))
        policy = self.policies[pending.task]
        if policy == "hrm":
            pending.depth = self.depth_for(pending.task)
        known = self._service.cache.get(self._key(pending, policy, self._version_of(pending.task, policy)))
        if known is not None and (policy == "ppo" or known.halted or known.segments >= pending.depth):
            self._answer(pending, known, cached=True)
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
            pending.depth, self.depth_in_force = self.depth_for(pending.task), service.depth
            puzzles.append(Puzzle(pending.number, pending.task, pending.puzzle, pending.depth))
            room -= 1
        if puzzles:
            link.ask(puzzles)

    def heed(self, link: Link, message: Message) -> None:
        """What a worker said."""
        if isinstance(message, Told):
            if not message.thoughts:
                return  # it lives, and nobody is done
            for thought in message.thoughts:
                link.at_work.discard(thought.number)
                self._told(link, thought)
            is_full = bool(self._queue) or len(link.at_work) >= self._service.config.slots
            self._service.drain.answered(len(message.thoughts), is_full=is_full)
        elif isinstance(message, Failed):
            self._service.drain.stopped()
            for number in message.numbers:
                link.at_work.discard(number)
                if (pending := self._service.book.get(number)) is not None:
                    self._service.book.refuse(pending, "model", message.error)
        self.flush()

    def renewed(self) -> None:
        """Another worker answers from now on."""
        self._service.drain.forget()
        self.flush()

    def lost(self, link: Link) -> None:
        """A worker is gone: what it owed is asked of the next one, ahead of the others, but not a second time."""
        self._service.drain.forget()
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

    def _version_of(self, task: str, policy: Policy) -> str:
        """Who would answer now."""
        return self.standins[task].fallback.name if policy == "ppo" else self._service.crew.models[task].version

    def _key(self, pending: Pending, policy: Policy, version: str) -> bytes:
        return b"\0".join((policy.encode(), pending.task.encode(), version.encode(), pending.puzzle))

    def _told(self, link: Link, thought: ToldThought) -> None:
        pending = self._service.book.get(thought.number)
        if pending is None:
            if thought.number < 0 and self.on_canary is not None:
                self.on_canary(thought)
            return
        version = link.models[pending.task].version  # of the worker that says so: another may have taken over since
        is_right = self._service.tasks[pending.task].is_right(pending.puzzle, thought.tokens)
        load, segments = link.spec.load, thought.segments
        answer = Answer(thought.tokens, "hrm", version, load, segments, None, thought.halted, thought.batch, is_right)
        self._keep(pending, answer)

    def _walked(self, pending: Pending, walk: Walk, batch: int) -> None:
        task = self._service.tasks[pending.task]
        if not isinstance(walk.tokens, bytes) or len(walk.tokens) != task.cells:
            raise StageError(f"the fallback gave {walk.tokens!r:.60}, expected {task.cells} cells as bytes")
        is_right = task.is_right(pending.puzzle, walk.tokens)
        name = self.standins[pending.task].fallback.name
        self._keep(pending, Answer(walk.tokens, "ppo", name, 0, 0, walk.steps, walk.reached, batch, is_right))

    def _keep(self, pending: Pending, answer: Answer) -> None:
        self._service.cache.put(self._key(pending, answer.policy, answer.model), answer)
        self._answer(pending, answer)

    def _answer(self, pending: Pending, answer: Answer, *, cached: bool = False) -> None:
        wanted = self._insists.get(pending.number)
        if is_version(answer.model, wanted):
            self._service.book.answer(pending, answer, cached=cached)
        else:
            told = f"which was to be {wanted}; now {answer.model} answers for {pending.task}"
            self._service.book.refuse(pending, "model", told)

    def _faulted(self, pending: Pending, error: Exception) -> None:
        told = str(error) if isinstance(error, StageError) else f"{type(error).__name__}: {error}"
        self._service.book.refuse(pending, "model", told)


def is_version(version: str, wanted: str | None) -> bool:
    """Whether a client that wants a version, or a bundle's name, or nothing in particular, is served by this one."""
    return wanted is None or wanted in (version, version.partition("@")[0])
