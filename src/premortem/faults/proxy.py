"""A TCP proxy on loopback, between a client and a real server, whose network can be made bad while it runs.

One thread with an event loop of its own. The client connects to `port`; bytes go to the real server and back
under the condition that was put on last. Covered: what a client sees of a refusing, hanging, resetting, slow,
truncating or corrupting peer, on new connections and on open ones. Not covered: packet loss and reordering below
TCP, name resolution, TLS (its bytes pass, and a corrupted one shows as TLS's own error).
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from premortem.core.errors import ConfigError, StageError
from premortem.faults.condition import Condition, Ending, Measured
from premortem.faults.relay import HOST, Relay, reset

_CHUNK = 1 << 16
_JOIN_S = 10.0
T = TypeVar("T")


class TcpProxy:
    """`with TcpProxy(server_port) as proxy:` then connect to `proxy.port` on 127.0.0.1.

    At most `max_connections` at a time; more are reset. Closed at exit of the block, and at the latest at that
    of the interpreter. Raises StageError where no port can be had or the thread does not end.
    """

    def __init__(self, upstream_port: int, *, max_connections: int = 256) -> None:
        self.upstream_port, self.max_connections = upstream_port, max_connections
        self.port = 0
        self._conditions: dict[object, Condition] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._probing: dict[int, int] = {}
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._failure: BaseException | None = None

    # --- life ---------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        if self._thread is not None:
            raise ConfigError("proxy: entered twice; close it first")
        # A bound socket that never listens holds the port while the proxy refuses: the kernel answers with RST.
        self._holder = _bound(0)
        self.port = self._holder.getsockname()[1]
        self._ready.clear()
        self._thread = threading.Thread(target=self._run, name="premortem-proxy", daemon=True)
        self._thread.start()
        atexit.register(self.close)
        self._ready.wait(_JOIN_S)
        if self._failure is not None:
            self.close()
            raise StageError(f"proxy: cannot listen on {HOST}: {self._failure}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every connection, the listener and the thread; again changes nothing."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        atexit.unregister(self.close)
        with contextlib.suppress(RuntimeError):  # the loop may have ended with its own failure
            self._loop.call_soon_threadsafe(self._stop.set)
        thread.join(_JOIN_S)
        self._holder.close()
        if thread.is_alive():
            raise StageError(f"proxy: its thread did not end in {_JOIN_S} s")

    @property
    def is_open(self) -> bool:
        """Whether it runs."""
        return self._thread is not None and self._thread.is_alive()

    # --- conditions ---------------------------------------------------------------------------

    @property
    def condition(self) -> Condition:
        """The one that was put on last and not taken off."""
        return next(reversed(self._conditions.values()), Condition())

    def put(self, owner: object, condition: Condition) -> None:
        """Put a condition on, for open connections too; returns when it is in force."""
        self._call(self._change(owner, condition))

    def take(self, owner: object) -> None:
        """Take the owner's condition off; again changes nothing."""
        if self.is_open:
            self._call(self._change(owner, None))

    def measure(self, num_bytes: int, patience_s: float = 5.0) -> Measured:
        """Fetch known bytes through this very listener, without troubling the real server."""
        return self._call(self._measure(num_bytes, patience_s), patience_s)

    def _call(self, coroutine: Coroutine[Any, Any, T], extra_s: float = 0.0) -> T:
        if not self.is_open:
            coroutine.close()
            raise ConfigError("proxy: it is closed; enter it first")
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_JOIN_S + extra_s)

    async def _change(self, owner: object, condition: Condition | None) -> None:
        self._conditions.pop(owner, None)
        if condition is not None:
            self._conditions[owner] = condition
        self._relay.change(self.condition)
        if self.condition.kind == "refuse":
            await self._close_listener()
        elif self._listener is None:
            await self._listen()
        if self.condition.kind in ("refuse", "reset"):
            await self._end_connections()

    # --- the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:
            self._failure = error
        finally:
            self._ready.set()

    async def _main(self) -> None:
        self._loop, self._stop, self._relay = asyncio.get_running_loop(), asyncio.Event(), Relay()
        self._listener: asyncio.Server | None = None
        self._source = await asyncio.start_server(_give_known_bytes, HOST, 0)
        await self._listen()
        self._ready.set()
        try:
            await self._stop.wait()
        finally:
            await self._close_listener()
            self._source.close()
            await self._end_connections()

    async def _listen(self) -> None:
        listener = _bound(self.port)
        listener.listen(128)
        self._listener = await asyncio.start_server(self._accepted, sock=listener)

    async def _close_listener(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            await asyncio.sleep(0)  # the loop lets go of the socket at its next turn

    async def _end_connections(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.condition.kind == "reset" or len(self._tasks) >= self.max_connections:
            reset(writer)
            return
        port = self._probing.pop(writer.get_extra_info("peername")[1], self.upstream_port)
        task = asyncio.create_task(self._relay.carry(reader, writer, port))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- measuring ----------------------------------------------------------------------------

    async def _measure(self, num_bytes: int, patience_s: float) -> Measured:
        began = self._loop.time()
        probe = socket.socket()
        probe.setblocking(False)
        probe.bind((HOST, 0))
        here = probe.getsockname()[1]
        self._probing[here] = self._source.sockets[0].getsockname()[1]
        got, first = b"", 0.0
        ended: Ending = "silent"
        try:
            async with asyncio.timeout(patience_s):
                await self._loop.sock_connect(probe, (HOST, self.port))
                await self._loop.sock_sendall(probe, struct.pack("!Q", num_bytes))
                while chunk := await self._loop.sock_recv(probe, _CHUNK):
                    first = first or self._loop.time() - began
                    got += chunk
                ended = "whole" if len(got) == num_bytes else "closed"
        except TimeoutError:
            pass
        except ConnectionRefusedError:
            ended = "refused"
        except OSError:
            ended = "reset"
        finally:
            self._probing.pop(here, None)
            probe.close()
        wrong = sum(a != b for a, b in zip(got, _known_bytes(num_bytes), strict=False))
        return Measured(ended, num_bytes, len(got), wrong, first, self._loop.time() - began)


def _bound(port: int) -> socket.socket:
    listener = socket.socket()
    try:
        # holder and listener share the port; only the one that listens is given connections
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
    except OSError as error:
        listener.close()
        raise StageError(f"proxy: no port on {HOST}: {error}") from error
    return listener


def _known_bytes(num_bytes: int) -> bytes:
    return random.Random(0).randbytes(num_bytes)


async def _give_known_bytes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        (num_bytes,) = struct.unpack("!Q", await reader.readexactly(8))
        writer.write(_known_bytes(num_bytes))
        await writer.drain()
    writer.close()
