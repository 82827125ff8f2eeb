"""The parent's end of one worker process: started, spoken to, noticed when it ends or falls silent."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import cast

import msgspec

from premortem.core.errors import ConfigError, StageError
from premortem.stages.serve.service.frames import (
    Ask,
    Forget,
    Frames,
    Message,
    Model,
    Puzzle,
    Ready,
    Spec,
    Stop,
    Unfit,
    pack,
)

_LOG = logging.getLogger("premortem.serve")
MUTE_S = 1.0
"""A worker that owes an answer and shows no sign of life for so long does no work."""
_MODULE = "premortem.stages.serve.service.worker"
_REAP_S = 10.0
_SPARE = 7
"""Autogroup niceness: about a fifth of the share of one at 0."""
_SHARE_WAITS_S = (0.0, 0.15, 0.25, 0.5, 1.0)
"""The kernel takes one such write in 0.1 s from all that are not privileged, and refuses the others."""


class Link(asyncio.Protocol):
    """One worker process, from its start to its end.

    Args:
        spec: what it is started with.
        on_message: called on the loop for what it says once it is ready.
        on_end: called once on the loop when it is gone, whatever ended it.
    """

    def __init__(self, spec: Spec, on_message: Callable[[Link, Message], None], on_end: Callable[[Link], None]) -> None:
        self.spec = spec
        self.ready: Ready | None = None
        self.at_work: set[int] = set()
        """Numbers of the puzzles that it was asked and has not answered."""
        self.heard_at = time.monotonic()
        """When it last said something, as it also does while it thinks, or was first asked after it was idle."""
        self._on_message, self._on_end = on_message, on_end
        self._frames = Frames()
        self._transport: asyncio.Transport | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._started: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        self._ended: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()

    @property
    def pid(self) -> int:
        """Of the process; 0 before it was started."""
        return self._process.pid if self._process is not None else 0

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self._ended.done()

    @property
    def models(self) -> dict[str, Model]:
        """What it has loaded, by task; none before it is warm."""
        return {model.task: model for model in self.ready.models} if self.ready is not None else {}

    @property
    def silent_s(self) -> float:
        """Seconds without a word while it owes an answer; 0 while it owes none."""
        return time.monotonic() - self.heard_at if self.at_work else 0.0

    async def start(self, patience_s: float, *, is_spare: bool = False) -> Ready:
        """Start the process and wait until it is warm; a spare one takes only what time the others leave meanwhile.

        It is started from the loop's own thread: the kernel ends it with the thread that started it.

        Raises:
            ConfigError: a bundle is not what can be served.
            StageError: it ended, or said nothing in time.
        """
        try:
            ours = self._launch()
        except OSError as error:
            raise StageError(f"the inference worker could not be started: {error}") from error
        if is_spare:
            self._set_share(_SPARE)
        try:
            await asyncio.get_running_loop().create_connection(lambda: self, sock=ours)
        except BaseException as error:
            ours.close()
            self.connection_lost(None)  # it never was: nobody else would see the process off
            if isinstance(error, OSError):
                raise StageError(f"the inference worker cannot be spoken to: {error}") from error
            raise
        try:
            ready = await asyncio.wait_for(asyncio.shield(self._started), patience_s)
        except TimeoutError as error:
            self.kill()
            raise StageError(f"the inference worker was not ready after {patience_s:.0f} s; it was ended") from error
        if is_spare:
            await self._take_full_share()
        return ready

    def _launch(self) -> socket.socket:
        """Start the process; our end of the line to it."""
        ours, theirs = socket.socketpair()
        try:
            words = [sys.executable, "-m", _MODULE, str(theirs.fileno()), msgspec.json.encode(self.spec).decode()]
            self._process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=(theirs.fileno(),),
                start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": str(self.spec.threads)},
            )  # fmt: skip
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return ours

    def ask(self, puzzles: Iterable[Puzzle]) -> None:
        """Hand it puzzles."""
        puzzles = list(puzzles)
        if not self.at_work:
            self.heard_at = time.monotonic()  # silence begins when there is something to say
        self.at_work.update(puzzle.number for puzzle in puzzles)
        self._say(Ask(puzzles))

    def forget(self) -> None:
        """Ask it to hand back what memory it can."""
        self._say(Forget())

    def stop(self) -> None:
        """Ask it to answer what it has, and end."""
        self._say(Stop())

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)

    async def ended(self) -> int | None:
        """Wait until it is gone; its exit code, negative for a signal."""
        return await asyncio.shield(self._ended)

    def _set_share(self, niceness: int) -> bool:
        """How the kernel favours the process against others, 19 for the least; False where it would not hear of it yet.

        A session has a group of its own, whose niceness may be lowered and put back without privileges; that of a
        process may not. No effect where there are no autogroups.
        """
        group = Path(f"/proc/{self.pid}/autogroup")
        try:
            group.write_text(str(niceness), "ascii")
        except OSError:
            return not group.exists()
        return True

    async def _take_full_share(self) -> None:
        """Back to the share that whoever answers clients has."""
        for wait_s in _SHARE_WAITS_S:
            await asyncio.sleep(wait_s)
            if self._set_share(0):
                return
        _LOG.warning("the inference worker %d may be left with a small share of the processor: "
                     "its autogroup could not be set to 0; see /proc/%d/autogroup", self.pid, self.pid)  # fmt: skip

    def _say(self, message: Message) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(pack(message))

    # --- called by the loop ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of :class:`asyncio.Protocol`."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by type

    def data_received(self, data: bytes) -> None:
        """Part of :class:`asyncio.Protocol`."""
        self.heard_at = time.monotonic()
        try:
            for message in self._frames.take(data):
                self._heed(message)
        except StageError as error:
            self._fail(error)
            self.kill()

    def connection_lost(self, error: Exception | None) -> None:
        """Part of :class:`asyncio.Protocol`."""
        self.kill()  # it may have closed its end and be alive
        task = asyncio.get_running_loop().create_task(self._reap())
        task.add_done_callback(lambda done: done.exception())

    def _heed(self, message: Message) -> None:
        if isinstance(message, Ready):
            self.ready = message
            if not self._started.done():
                self._started.set_result(message)
        elif isinstance(message, Unfit):
            self._fail((ConfigError if message.is_mistake else StageError)(message.error))
        else:
            self._on_message(self, message)

    def _fail(self, error: Exception) -> None:
        if not self._started.done():
            self._started.set_exception(error)
            self._started.exception()  # nobody may wait for it any more

    async def _reap(self) -> None:
        assert self._process is not None
        until = time.monotonic() + _REAP_S
        while (code := self._process.poll()) is None and time.monotonic() < until:
            await asyncio.sleep(0.002)
        self._fail(StageError(f"the inference worker ended while it started ({describe(code)})"))
        if not self._ended.done():
            self._ended.set_result(code)
            self._on_end(self)


def describe(code: int | None) -> str:
    """An exit code in words."""
    if code is None:
        return "it does not end"
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
