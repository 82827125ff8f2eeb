"""HRM inference as a service: a bounded queue in front of one warm worker process, with a fallback policy beside it.

``service = Service([bundle]); await service.start(); reply = await service.answer(puzzle); await service.close()``.
Every accepted request is answered or refused with a reason. It knows nothing of risks, and has no network: ``http``
puts one in front.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

from premortem.core.errors import ConfigError
from premortem.stages.serve.cache import AnswerCache
from premortem.stages.serve.service.book import Book
from premortem.stages.serve.service.config import LONGEST_S, ServiceConfig
from premortem.stages.serve.service.controls import Controls
from premortem.stages.serve.service.crew import Crew, Duties
from premortem.stages.serve.service.dispatch import Dispatch, is_version
from premortem.stages.serve.service.drain import Drain
from premortem.stages.serve.service.latency import Samples
from premortem.stages.serve.service.link import MUTE_S
from premortem.stages.serve.service.reply import Answer, Policy, Reason, Refused, Reply, Unknown
from premortem.stages.serve.service.standin import Fallback
from premortem.stages.serve.service.tasks import Task, read_puzzle, task_for


class Service(Controls):
    """The service. ``answer`` belongs to the loop that called ``start``; controls and readings to any thread.

    Args:
        bundles: checkpoint bundles with a card, one for each task.
        config: bounds and defaults.
        fallbacks: a policy by task that can stand in for the model.
        on_start: called on the loop with the service when it is ready; this is where a guard comes in.
    """

    def __init__(
        self,
        bundles: Sequence[Path],
        config: ServiceConfig | None = None,
        *,
        fallbacks: Mapping[str, Fallback] | None = None,
        on_start: Sequence[Callable[[Service], None]] = (),
    ) -> None:
        if not bundles:
            raise ConfigError("no bundle was given, expected at least one checkpoint to serve")
        self.config = config or ServiceConfig()
        self.tasks: dict[str, Task] = {}
        self.book = Book()
        self.drain = Drain()
        self.cache: AnswerCache[Answer] = AnswerCache(self.config.cache)
        self.crew = Crew([Path(b).absolute() for b in bundles], self.config, Duties(
            lambda link, message: self.dispatch.heed(link, message),
            lambda link: self.dispatch.lost(link),
            lambda link: self.dispatch.renewed(),
        ))  # fmt: skip
        self.dispatch = Dispatch(self, fallbacks or {})
        self._on_start = tuple(on_start)
        self._is_closing = False
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start(self) -> None:
        """Start the worker and wait until it is warm.

        Raises:
            ConfigError: a bundle cannot be served, two are of one task, or a fallback is of none.
            StageError: the worker could not be started.
        """
        self._loop = asyncio.get_running_loop()
        await self.crew.start()
        try:
            for model in self.crew.models.values():
                self.tasks[model.task] = task_for(model.task, model.size)
            self.dispatch.open()
            for hook in self._on_start:
                hook(self)
        except BaseException:
            await self.crew.close(0.0)
            raise

    async def answer(
        self,
        puzzle: Sequence[int],
        *,
        task: str | None = None,
        model: str | None = None,
        timeout_s: float | None = None,
    ) -> Reply:
        """Solve one puzzle.

        Args:
            puzzle: C tokens, row by row.
            task: which task; may be left out where the service has but one.
            model: version that the client insists on: its bundle's name, or all of it. No other answers it, nor the
                fallback: it is refused then.
            timeout_s: allowed for the answer; the service's setting where it is left out.

        Raises:
            Unknown: there is no such task or version.
            ConfigError: the puzzle, or the time allowed, is not what can be.
            Refused: with its reason; accepted or not.
        """
        kind = self._task(task)
        self._insist_on(kind.name, model)
        allowed_s = self.config.timeout_s if timeout_s is None else timeout_s
        if not 0 < allowed_s <= LONGEST_S:
            raise ConfigError(f"timeout: found {allowed_s:g} s, expected more than 0 and at most {LONGEST_S:g}")
        self._refuse_if_must(kind.name, allowed_s)
        pending = self.book.accept(kind.name, read_puzzle(kind, puzzle), self.depth, allowed_s)
        self.dispatch.put(pending, model)
        try:
            return await pending.future
        except asyncio.CancelledError:
            self.book.withdraw(pending)
            raise

    def refuse_new(self) -> None:
        """Take no new work from now on; what was accepted goes on."""
        self._is_closing = True

    async def close(self, grace_s: float = 5.0) -> None:
        """Take no new work, finish what was accepted within the grace, and refuse the rest with the reason."""
        self.refuse_new()
        until = time.monotonic() + grace_s
        while len(self.book) and time.monotonic() < until:
            await asyncio.sleep(0.005)
        for pending in self.book.waiting():
            self.book.refuse(pending, "closing", f"not finished within the grace of {grace_s:g} s")
        await self.crew.close(min(1.0, max(0.0, grace_s)))
        await self.dispatch.close()

    # --- what can be read, from any thread -----------------------------------------------------

    @property
    def is_ready(self) -> bool:
        """Whether every task has a policy that answers now: a worker that is stopped is none."""
        if self._is_closing or not self.tasks:
            return False
        link = self.crew.current
        is_at_work = link is not None and link.silent_s <= MUTE_S
        return all(self.dispatch.policies[task] == "ppo" or is_at_work for task in self.tasks)

    @property
    def is_closing(self) -> bool:
        """Whether it takes no new work any more."""
        return self._is_closing

    @property
    def unready(self) -> str:
        """Why it is not ready, in one line."""
        if self._is_closing:
            return "the service is shutting down"
        link = self.crew.current
        if link is None:
            return self.crew.fault or "a worker is warming up"
        return f"the inference worker owes an answer and has shown no sign of life for {link.silent_s:.1f} s"

    @property
    def samples(self) -> Samples:
        """Latencies since the last mark, which whoever turns a control sets anew."""
        return self.book.samples

    def mark(self) -> None:
        """Begin the latencies anew: only requests accepted from now on count."""
        self.book.samples.mark(time.monotonic())

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop on which it was started."""
        return self._loop

    @property
    def pending(self) -> int:
        """Accepted requests that wait for an answer."""
        return len(self.book)

    @property
    def oldest_s(self) -> float:
        """Seconds that the oldest of them has waited: what shows a silent worker under demand."""
        return self.book.oldest_s

    @property
    def oldest_number(self) -> float:
        """Number of the oldest request that waits; infinite where none does."""
        return self.book.oldest_number

    @property
    def silent_s(self) -> float:
        """Seconds that a worker which owes an answer has said nothing."""
        return self.crew.silent_s

    # --- inside ------------------------------------------------------------------------------

    def _task(self, name: str | None) -> Task:
        if not self.tasks:
            raise self._refusal("starting", self.unready, self.crew.ready_in_s)
        if name is None:
            if len(self.tasks) > 1:
                raise Unknown(f"no task was named, expected one of {', '.join(sorted(self.tasks))}")
            return next(iter(self.tasks.values()))
        if name not in self.tasks:
            raise Unknown(f"task {name!r:.60}: not served here, expected one of {', '.join(sorted(self.tasks))}")
        return self.tasks[name]

    def _insist_on(self, task: str, model: str | None) -> None:
        version = self.crew.models[task].version
        if not is_version(version, model):
            raise Unknown(f"model {model!r:.80}: not served here, expected {version} for {task}")

    def _refuse_if_must(self, task: str, allowed_s: float) -> None:
        backlog, most_s = len(self.book), min(allowed_s, self.config.max_wait_s)
        if self._is_closing:
            raise self._refusal("closing", "no new work is taken", 5.0)
        drain_s = self.drain.wait_s(backlog)
        if backlog >= self.config.queue:
            raise self._refusal("full", f"{backlog} requests wait", drain_s or 1.0)
        if self.dispatch.policies[task] == "ppo":
            return
        ready_s = self.crew.ready_in_s
        if ready_s > most_s:
            raise self._refusal("starting", f"a worker is being started, about {ready_s:.1f} s to go", ready_s)
        if ready_s + drain_s > most_s:
            told = f"about {ready_s + drain_s:.2f} s by the rate at which requests are answered, {most_s:g} s allowed"
            raise self._refusal("slow", told, ready_s + drain_s - most_s)

    def _refusal(self, reason: Reason, detail: str, retry_after_s: float) -> Refused:
        self.book.counts.refused[reason] += 1
        return Refused(reason, detail, retry_after_s=max(0.05, retry_after_s), was_accepted=False)


@contextlib.asynccontextmanager
async def running(service: Service, grace_s: float = 5.0) -> AsyncIterator[Service]:
    """The service from start to close: ``async with running(Service([bundle])) as service``."""
    await service.start()
    try:
        yield service
    finally:
        await service.close(grace_s)


__all__ = ["Policy", "Service", "running"]
