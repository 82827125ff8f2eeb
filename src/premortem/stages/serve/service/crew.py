"""Keeps one warm worker: starts it, replaces it when it ends, falls silent or shall be renewed.

A worker is believed only when its canary puzzles come out as at the first start.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from premortem.core.errors import ConfigError, StageError
from premortem.stages.serve.service.config import ServiceConfig
from premortem.stages.serve.service.frames import Message, Model, Spec
from premortem.stages.serve.service.link import Link

_LOG = logging.getLogger("premortem.serve")
_CLOSE = 1e-3
"""As in the reasoner: logits differ in their last bits."""
_WATCH_S = 0.1
_WAITS_S = (0.2, 0.5, 1.0, 2.0, 5.0)
_START_GUESS_S = 5.0
_SPARE_PATIENCE = 4


@dataclass(frozen=True, slots=True)
class Duties:
    """Whom the crew tells: what a worker said, that one is gone, that a new one is warm."""

    on_message: Callable[[Link, Message], None]
    on_lost: Callable[[Link], None]
    on_ready: Callable[[Link], None]


class Crew:
    """At most one worker at work, and one on its way in or out."""

    def __init__(self, bundles: list[Path], config: ServiceConfig, duties: Duties) -> None:
        self.current: Link | None = None
        self.models: dict[str, Model] = {}
        self.load = 0
        """Starts of a worker so far, those that failed included."""
        self.restarts = 0
        """Workers that were replaced, for whatever reason."""
        self.deaths = 0
        """Workers that ended without being told to."""
        self.wedged = 0
        """Workers that the watchdog ended."""
        self.fault = ""
        """Why the newest start failed; empty when it did not."""
        self._bundles, self._config, self._duties = bundles, config, duties
        self._links: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._bringing: asyncio.Task[None] | None = None
        self._renewal: asyncio.Task[None] | None = None
        self._next_renewal: asyncio.Task[None] | None = None
        self._start_took_s, self._start_began = _START_GUESS_S, 0.0
        self._first: dict[str, Model] = {}
        self._is_closed = False

    async def start(self) -> None:
        """Start the first worker.

        Raises:
            ConfigError, StageError: it cannot be started; nothing is left running.
        """
        self._start_began = time.monotonic()
        try:
            self._install(await self._start_one())
        except BaseException:
            await self.close(0.0)
            raise
        self._spawn(self._watch())

    @property
    def ready_in_s(self) -> float:
        """Seconds until a worker is ready, going by how long the last start took; 0 with one that is.

        A start that is overdue is expected to be late by as much again.
        """
        if self.current is not None:
            return 0.0
        return max(0.1, abs(self._start_took_s - (time.monotonic() - self._start_began)))

    @property
    def silent_s(self) -> float:
        """Seconds that a worker which owes an answer has said nothing."""
        return max((link.silent_s for link in list(self._links)), default=0.0)

    @property
    def is_changing(self) -> bool:
        """Whether a worker is on its way in or out: it takes processor time from the one that answers."""
        return len(self._links) != 1

    def restart(self) -> asyncio.Task[None]:
        """End the worker now and start another; what it owed is asked of the new one. Done when that one is ready.

        Raises:
            StageError: the crew was closed.
        """
        self._must_be_open()
        if self._bringing is not None:
            return self._bringing
        old, self.current = self.current, None
        if old is not None:
            old.kill()
        return self._bring_up()

    def reload(self) -> asyncio.Task[None]:
        """Start another worker beside this one and go over to it when it is warm: nobody waits for the start.

        One at a time. What is asked for meanwhile comes after it, once: the bundle may have changed since it was read.
        The task raises ConfigError or StageError where the new one is not fit; the old one stays.

        Raises:
            StageError: the crew was closed.
        """
        self._must_be_open()
        if self._renewal is None:
            self._renewal = self._spawn(self._renew())
            self._renewal.add_done_callback(self._renewed)
            return self._renewal
        if self._next_renewal is None:
            self._next_renewal = self._spawn(self._renew(after=self._renewal))
        return self._next_renewal

    async def close(self, grace_s: float) -> None:
        """End every worker, with so much time to finish what it has."""
        self._is_closed = True
        for task in list(self._tasks):
            task.cancel()
        for link in list(self._links):
            link.stop()
        with contextlib.suppress(TimeoutError):
            if grace_s > 0:
                await asyncio.wait_for(self._all_ended(), grace_s)
        for link in list(self._links):
            link.kill()
        await self._all_ended()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _all_ended(self) -> None:
        await asyncio.gather(*(link.ended() for link in list(self._links)))

    # --- inside ------------------------------------------------------------------------------

    def _spawn(self, work: object) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _must_be_open(self) -> None:
        if self._is_closed:
            raise StageError("the service was closed: start it anew, no worker is started any more")

    async def _renew(self, after: asyncio.Task[None] | None = None) -> None:
        if after is not None:
            await asyncio.wait({after})
        if self._bringing is not None:  # it may have read the bundle before the one that is wanted lay there
            await asyncio.wait({self._bringing})
        if self.current is None:
            await self.restart()
            return
        self._install(await self._start_one())
        self.restarts += 1

    def _renewed(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()  # told to whoever asked; nobody may have
        self._renewal, self._next_renewal = self._next_renewal, None
        if self._renewal is not None:
            self._renewal.add_done_callback(self._renewed)

    def _bring_up(self) -> asyncio.Task[None]:
        if self._bringing is None:
            self._start_began = time.monotonic()
            self._bringing = self._spawn(self._insist())
            self._bringing.add_done_callback(self._brought)
        return self._bringing

    def _brought(self, task: asyncio.Task[None]) -> None:
        self._bringing = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fault = str(error)
            _LOG.error("no worker: %s", error)

    async def _insist(self) -> None:
        """Until there is one: without a worker nothing is answered, so giving up would help nobody."""
        tries = 0
        while True:
            self._must_be_open()
            try:
                self._install(await self._start_one())
            except Exception as error:
                is_known = isinstance(error, ConfigError | StageError)
                _LOG.warning("the worker did not start: %s", error, exc_info=not is_known)
                await asyncio.sleep(_WAITS_S[min(tries, len(_WAITS_S) - 1)])
                tries += 1
                continue
            self.restarts += 1
            return

    async def _start_one(self) -> Link:
        self.load += 1
        began = time.monotonic()
        config = self._config
        spec = Spec([str(b) for b in self._bundles], config.slots, config.linger_s, config.threads, self.load)
        link = Link(spec, self._duties.on_message, self._ended)
        self._links.add(link)
        try:
            is_spare = self.current is not None  # it stands back, and may take its time: nobody waits for it
            await link.start((_SPARE_PATIENCE if is_spare else 1) * config.start_s, is_spare=is_spare)
            self._judge(link.models)
        except BaseException as error:
            self.fault = str(error)
            link.kill()
            if not link.pid:
                self._links.discard(link)
            raise
        self.fault = ""
        if not is_spare:
            self._start_took_s = time.monotonic() - began
        return link

    def _judge(self, models: dict[str, Model]) -> None:
        if not self._first:
            self._first = models
        for task, model in models.items():
            first = self._first.get(task)
            if first is None:
                raise StageError(
                    f"{model.version}: found a bundle of the task {task}, expected {' or '.join(self._first)} as at "
                    "the first start; put the former bundle back, or start the service anew to serve this one"
                )
            if not _is_same(first.canary, model.canary):
                raise StageError(
                    f"{model.version}: the canary puzzles do not come out as at the first start ({first.version}); "
                    "the bundle was changed, or the arithmetic is wrong: start the service anew to accept it"
                )

    def _install(self, link: Link) -> None:
        if link.has_ended or self._is_closed:
            link.kill()
            self._must_be_open()
            raise StageError("the inference worker ended as soon as it was ready")
        old = self.current
        if old is not None and old.spec.load > link.spec.load:  # a renewal that was overtaken: what it read is older
            self._let_go(link)
            return
        self.current, self.models = link, link.models
        if old is not None:  # renewed; or it came up while a renewal was on its way
            self._let_go(old)
        self._duties.on_ready(link)

    def _let_go(self, link: Link) -> None:
        link.stop()
        self._spawn(self._retire(link))

    def _ended(self, link: Link) -> None:
        self._links.discard(link)
        is_loss = link is self.current and not self._is_closed
        if link is self.current:
            self.current = None
        if is_loss:  # before anybody is told: nothing that goes wrong there may leave the service without a worker
            self.deaths += 1
            _LOG.warning("the inference worker %d ended without being told to; another is started", link.pid)
            self._bring_up()
        self._duties.on_lost(link)

    async def _retire(self, link: Link) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(link.ended(), self._config.silent_s)
        link.kill()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_WATCH_S)
            for link in list(self._links):
                if link.silent_s > self._config.silent_s:
                    self.wedged += 1
                    _LOG.error("the inference worker %d was silent for %.1f s: it is ended", link.pid, link.silent_s)
                    link.kill()


def _is_same(one: bytes, other: bytes) -> bool:
    a, b = array("f", one), array("f", other)
    return len(a) == len(b) and all(abs(x - y) <= _CLOSE + _CLOSE * abs(y) for x, y in zip(a, b, strict=True))
