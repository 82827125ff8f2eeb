"""The service as a process that listens: its socket, its signals, and an end at which everybody is told."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from typing import Any

import uvicorn

from premortem.core.errors import ConfigError
from premortem.stages.serve.service.http import build_app
from premortem.stages.serve.service.service import Service

_LOG = logging.getLogger("premortem.serve")
_TO_TELL_S = 2
"""Behind the grace, for the replies of those who were refused at its end to be sent."""


class _Server(uvicorn.Server):
    """uvicorn raises the signal again after an orderly shutdown, and ends by it; here the caller's code counts."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(host: str, port: int) -> socket.socket:
    """A socket to serve on; raises ConfigError where the address cannot be had, such as a port in use."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's delay (40 ms a reply) off only for sockets that name their protocol
    line = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        line.bind((host, port))
        line.listen(2048)
    except (OSError, OverflowError, UnicodeError) as error:
        line.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"cannot listen on {host}:{port}: {reason}; choose another --host or --port") from error
    return line


def run(main: Coroutine[Any, Any, None]) -> None:
    """Carry out :func:`serve` on the fastest loop that is installed."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)


async def serve(
    service: Service,
    line: socket.socket,
    *,
    grace_s: float = 10.0,
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Start the service and answer until SIGTERM or SIGINT; then finish what was accepted, within the grace.

    What is not finished by then is refused with the reason; a second signal refuses it at once. SIGHUP renews the
    worker: another is started beside it and takes over when it is warm. It listens from the first moment, so that
    readiness can be asked while the worker warms up.

    Raises:
        ConfigError, StageError: the service could not be started.
    """
    server = _Server(uvicorn.Config(
        build_app(service), log_level="warning", access_log=False, lifespan="off",
        timeout_graceful_shutdown=math.ceil(grace_s) + _TO_TELL_S,
    ))  # fmt: skip
    loop = asyncio.get_running_loop()
    answering = loop.create_task(server.serve(sockets=[line]))
    starting = loop.create_task(service.start())
    closing: list[asyncio.Task[None]] = []

    def end() -> None:
        # begun now: uvicorn cancels what still waits at its own end, and nobody would be told why
        service.refuse_new()
        server.should_exit, server.force_exit = True, bool(closing)
        hurried = server.server_state.tasks if closing else set()  # a second signal waits for nobody
        closing.append(loop.create_task(_close(service, starting, 0.0 if closing else grace_s, hurried)))

    with _on_signals(loop, end, lambda: _renew(service)):
        try:
            await asyncio.wait((answering, starting), return_when=asyncio.FIRST_COMPLETED)
            if starting.done() and not starting.cancelled() and starting.exception() is None:
                on_ready()
                await answering
        finally:
            if not closing:
                end()
            await asyncio.gather(answering, *closing, return_exceptions=True)
            await asyncio.gather(*server.server_state.tasks, return_exceptions=True)
    for task in (starting, answering, *closing):
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error


async def _close(
    service: Service, starting: asyncio.Task[None], grace_s: float, hurried: set[asyncio.Task[None]]
) -> None:
    starting.cancel()  # nothing happens to one that is done
    await asyncio.gather(starting, return_exceptions=True)
    await service.close(grace_s)
    for answering in list(hurried):  # all who were accepted have been told: these are still sending what they ask
        answering.cancel()


def _renew(service: Service) -> None:
    if service.tasks:  # while the first one warms up there is nothing to renew
        service.reload_worker().add_done_callback(_log_renewal)


def _log_renewal(done: Future[None]) -> None:
    if (error := done.exception()) is not None:
        _LOG.error("the worker was not renewed, the old one stays: %s", error)


@contextlib.contextmanager
def _on_signals(loop: asyncio.AbstractEventLoop, end: Callable[[], None], renew: Callable[[], None]) -> Iterator[None]:
    acts = {signal.SIGTERM: end, signal.SIGINT: end, signal.SIGHUP: renew}
    for number, act in acts.items():
        loop.add_signal_handler(number, act)
    try:
        yield
    finally:
        for number in acts:
            loop.remove_signal_handler(number)
