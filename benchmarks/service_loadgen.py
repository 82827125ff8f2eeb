"""An open-loop load generator: requests leave when they are due, however slow the service is.

    python benchmarks/service_loadgen.py < plan.json > outcome.json

A process of its own. Latency counts from the moment at which a request was due, so that a service which stands still is
not spared the requests that a polite client would have held back. With ``closed`` > 0 so many clients ask one request
after another instead, which measures capacity.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

_IDLE_S = 2.0
_GIVE_UP_S = 30.0


@dataclass(frozen=True)
class Plan:
    """``bodies``: of the requests, in order; ``rate``: requests a second, Poisson by ``seed``; ``closed``: clients."""

    port: int
    path: str
    bodies: list[str]
    rate: float = 0.0
    seed: int = 0
    closed: int = 0
    host: str = "127.0.0.1"


@dataclass
class Outcome:
    """One entry a request, in the order of ``bodies``: due and done in seconds from the start, status, reply's body."""

    due: list[float] = field(default_factory=list)
    done: list[float] = field(default_factory=list)
    status: list[int] = field(default_factory=list)
    """0: no whole reply came back."""
    replies: list[str] = field(default_factory=list)
    began: float = 0.0
    """When it started, by ``time.monotonic``, which all processes of a machine share."""
    late_ms: float = 0.0
    """The latest that a request left after it was due: how far the generator itself may be believed."""


class _Connection(asyncio.Protocol):
    """One keep-alive connection with one request at a time."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._data = bytearray()
        self.number = -1
        self.idle_since = 0.0
        self.is_open = False
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.is_open = True

    def send(self, number: int, request: bytes) -> None:
        self.number = number
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._data += data
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._data[:end]).lower()
        at = head.index(b"content-length:") + 15
        line_end = head.find(b"\r\n", at)
        length = int(head[at : line_end if line_end > 0 else len(head)])
        if len(self._data) < end + 4 + length:
            return
        body = bytes(self._data[end + 4 : end + 4 + length])
        self._data.clear()
        number, self.number = self.number, -1
        self._client.replied(number, int(head[9:12]), body)
        if b"connection: close" in head:
            self.transport.close()
        else:
            self._client.give_back(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        if self.number >= 0:
            self._client.replied(self.number, 0, b"")


class Client:
    """Sends the requests of a plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        count = len(plan.bodies)
        head = f"POST {plan.path} HTTP/1.1\r\nHost: {plan.host}\r\nContent-Type: application/json\r\nContent-Length: "
        self._requests = [f"{head}{len(body)}\r\n\r\n{body}".encode() for body in plan.bodies]
        self._idle: list[_Connection] = []
        self._waiting = count
        self._all_done = asyncio.Event()
        self._began = 0.0
        self._next = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.outcome = Outcome([0.0] * count, [0.0] * count, [0] * count, [""] * count)

    async def run(self) -> Outcome:
        """Send everything, and wait for what comes back."""
        gc.disable()
        self._began, self.outcome.began = time.perf_counter(), time.monotonic()
        if self._plan.closed:
            for _ in range(min(self._plan.closed, len(self._requests))):
                self._send_next(self._now())
            patience = 600.0
        else:
            await self._send_when_due()
            patience = _GIVE_UP_S
        try:
            await asyncio.wait_for(self._all_done.wait(), patience)
        except TimeoutError:
            print(f"{self._waiting} requests without a reply after {patience} s", file=sys.stderr)
        return self.outcome

    def replied(self, number: int, status: int, body: bytes) -> None:
        """A reply is whole, or its connection is gone."""
        self.outcome.done[number] = self._now()
        self.outcome.status[number] = status
        self.outcome.replies[number] = body.decode()
        self._waiting -= 1
        if not self._waiting:
            self._all_done.set()

    def give_back(self, connection: _Connection) -> None:
        """It is free for the next request."""
        connection.idle_since = self._now()
        self._idle.append(connection)
        if self._plan.closed:
            self._send_next(connection.idle_since)

    def _now(self) -> float:
        return time.perf_counter() - self._began

    async def _send_when_due(self) -> None:
        draw, due = random.Random(self._plan.seed), 0.0
        for _ in self._requests:
            due += draw.expovariate(self._plan.rate)
            while (early := due - self._now()) > 0:
                await asyncio.sleep(early)
            self.outcome.late_ms = max(self.outcome.late_ms, -early * 1e3)
            self._send_next(due)
            if -early > 0.002:
                await asyncio.sleep(0)  # behind: replies must be read all the same

    def _send_next(self, due: float) -> None:
        if self._next == len(self._requests):
            return
        number, self._next = self._next, self._next + 1
        self.outcome.due[number] = due
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open and self._now() - connection.idle_since < _IDLE_S:
                connection.send(number, self._requests[number])
                return
            connection.transport.close()
        self._tasks.add(task := asyncio.get_running_loop().create_task(self._send_anew(number)))
        task.add_done_callback(self._tasks.discard)

    async def _send_anew(self, number: int) -> None:
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: _Connection(self), self._plan.host, self._plan.port
            )
        except OSError:
            self.replied(number, 0, b"")
            return
        connection.send(number, self._requests[number])


def generate(plan: Plan) -> dict[str, Any]:
    """Carry out a plan in this process."""

    async def main() -> Outcome:
        return await Client(plan).run()

    try:
        import uvloop

        return asdict(uvloop.run(main()))
    except ImportError:
        return asdict(asyncio.run(main()))


if __name__ == "__main__":
    json.dump(generate(Plan(**json.load(sys.stdin))), sys.stdout)
