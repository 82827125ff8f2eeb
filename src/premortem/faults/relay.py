"""Carries one connection of the proxy, under whatever condition is on at the moment."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

from premortem.faults.condition import Condition

HOST = "127.0.0.1"
_CHUNK = 1 << 16
_SLICE_S = 0.02


class Relay:
    """What all connections of a proxy share: the condition, and the event that it has changed. Lives in the loop."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.changed = asyncio.Event()
        self.condition = Condition()

    def change(self, condition: Condition) -> None:
        """Put another condition in force, for open connections too."""
        self.condition = condition
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        """One connection to the server at `port`, to its end; a cancelled one is reset."""
        up: asyncio.StreamWriter | None = None
        try:
            await self._flowing()
            answers, up = await asyncio.open_connection(HOST, port)
            asking = asyncio.create_task(self._pump(reader, up, down=False))
            try:
                await self._pump(answers, writer, down=True)
            finally:
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
            writer.close()
            await writer.wait_closed()
        except (OSError, asyncio.IncompleteReadError):
            reset(writer)
        except asyncio.CancelledError:
            reset(writer)
        finally:
            if up is not None:
                up.transport.abort()

    async def _flowing(self) -> None:
        while self.condition.kind == "hang":
            await self.changed.wait()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, down: bool) -> None:
        """Carry one direction until its source ends. Chunks wait their delay side by side, so none adds up."""
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)
        reading = asyncio.create_task(self._read(source, waiting))
        sent = 0
        try:
            while True:
                due, chunk = await waiting.get()
                await asyncio.sleep(max(0.0, due - self.loop.time()))
                await self._flowing()
                if not chunk:
                    if not down:
                        sink.write_eof()
                    return
                sent += await self._send(sink, chunk, sent, down=down)
        except EOFError:
            return
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read(self, source: asyncio.StreamReader, waiting: asyncio.Queue[tuple[float, bytes]]) -> None:
        chunk = b"first"
        while chunk:
            try:
                chunk = await source.read(_CHUNK)
            except OSError:
                chunk = b""
            delay = self.condition.amount if self.condition.kind == "delay" else 0.0
            await waiting.put((self.loop.time() + delay, chunk))

    async def _send(self, sink: asyncio.StreamWriter, chunk: bytes, sent: int, *, down: bool) -> int:
        """Send a chunk as the condition has it; raises EOFError where the connection is cut short."""
        left = chunk
        while left:
            await self._flowing()
            now = self.condition
            part, pause = left, 0.0
            if now.kind == "throttle":
                part = left[: max(1, int(now.amount * _SLICE_S))]
                pause = len(part) / now.amount
            elif down and now.kind in ("truncate", "black hole"):
                part = left[: max(0, int(now.amount) - sent)]
            if part:
                bad = down and now.kind == "corrupt"
                sink.write(now.corrupted(part, sent) if bad else part)
                await sink.drain()
                await asyncio.sleep(pause)
                sent, left = sent + len(part), left[len(part) :]
            elif now.kind == "truncate":
                raise EOFError
            else:
                await self.changed.wait()
        return len(chunk)


def reset(writer: asyncio.StreamWriter) -> None:
    """End with RST rather than FIN: what a peer that died sends."""
    if (sock := writer.get_extra_info("socket")) is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
