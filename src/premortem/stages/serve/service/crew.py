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
from premortem.stages.serve.service.frames import Message, Model, Ready, Spec
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

    def restart(self) -> asyncio.Task[None]:
        """End the worker now and start another; what it owed is asked of the new one. Done when that one is ready."""
        if self._bringing is not None:
            return self._bringing
        old, self.current = self.current, None
        if old is not None:
            old.kill()
        return self._bring_up()

    async def reload(self) -> None:
        """Start another worker beside this one and go over to it when it is warm: nobody waits for the start.

        Raises:
            ConfigError, StageError: the new one is not fit; the old one stays.
        """
        if self.current is None:
            await self.restart()
            return
        self._install(await self._start_one())
        self.restarts += 1

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
            try:
                self._install(await self._start_one())
            except (ConfigError, StageError) as error:
                _LOG.warning("the worker did not start: %s", error)
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
            ready = await link.start((_SPARE_PATIENCE if is_spare else 1) * config.start_s, is_spare=is_spare)
            self._judge(ready)
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

    def _judge(self, ready: Ready) -> None:
        models = {model.task: model for model in ready.models}
        if not self._first:
            self._first = models
        for task, model in models.items():
            first = self._first[task]
            if not _is_same(first.canary, model.canary):
                raise StageError(
                    f"{model.version}: the canary puzzles do not come out as at the first start ({first.version}); "
                    "the bundle was changed, or the arithmetic is wrong: start the service anew to accept it"
                )
        self.models = models

    def _install(self, link: Link) -> None:
        if link.has_ended or self._is_closed:
            raise StageError("the inference worker ended as soon as it was ready")
        old, self.current = self.current, link
        self._duties.on_ready(link)
        if old is not None:  # renewed; or it came up while a renewal was on its way
            old.stop()
            self._spawn(self._retire(old))

    def _ended(self, link: Link) -> None:
        self._links.discard(link)
        is_loss = link is self.current
        if is_loss:
            self.current = None
        self._duties.on_lost(link)
        if is_loss and not self._is_closed:
            self.deaths += 1
            _LOG.warning("the inference worker %d ended without being told to; another is started", link.pid)
            self._bring_up()

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
