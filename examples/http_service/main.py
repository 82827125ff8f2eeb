"""An asyncio HTTP service whose upstream fails and slows: retry → cache → degraded, and all the way back.

python examples/http_service/main.py [--fault none] [--home FOLDER]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import uvicorn
from service import Quotes, QuoteWorkload, ask_all

import premortem
from premortem.faults.network import BadNetwork, TcpProxy
from premortem.run.evidence import incidents
from premortem.run.watching import Watch

HERE = Path(__file__).parent
KNOWN = [f"item-{n}" for n in range(10)]
NEW = [f"item-{n}" for n in range(10, 20)]


@contextlib.contextmanager
def upstream() -> Iterator[int]:
    """A real second server, in a process of its own; gives its port."""
    command = [sys.executable, str(HERE / "upstream.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.kill()


@contextlib.asynccontextmanager
async def served(quotes: Quotes) -> AsyncIterator[str]:
    """The service on a port of its own, in this event loop; gives its address."""
    server = uvicorn.Server(uvicorn.Config(quotes.app, host="127.0.0.1", port=0, log_level="error"))
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        await quotes.close()


async def windows(count: int, quotes: Quotes, client: httpx.AsyncClient, watch: Watch, items: list[str]) -> None:
    """So many windows of 10 requests. The guard commits and acts in a thread of its own; the loop goes on."""
    for _ in range(count):
        await asyncio.gather(ask_all(client, items), quotes.probe())
        await watch.observe(quotes.window())


async def story(watch: Watch, quotes: Quotes, proxy: TcpProxy, *, faulty: bool) -> None:
    """A healthy time; an outage; a healthy time; a slow upstream while new items are asked for; a healthy time."""
    async with served(quotes) as url, httpx.AsyncClient(base_url=url, timeout=10.0) as client:
        await windows(8, quotes, client, watch, KNOWN)
        for kind, amount, items in (("refuse", 0.0, KNOWN), ("delay", 1.0, NEW)):
            fault = BadNetwork(proxy, kind, amount) if faulty else contextlib.nullcontext()
            with fault:
                print(f"-- upstream: {getattr(fault, 'name', 'healthy')}")
                await windows(13, quotes, client, watch, items)
            print("-- upstream: healthy")
            await windows(3, quotes, client, watch, KNOWN)
            for _ in range(20):  # the way back takes its time: each fallback is taken off by itself, and verified
                if not watch.standing.is_healthy:
                    await windows(1, quotes, client, watch, KNOWN)


async def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fault", choices=("network", "none"), default="network")
    parser.add_argument("--home", type=Path, help="the folder of the ledger; a temporary one when left out")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, upstream() as port, TcpProxy(port) as proxy:
        quotes = Quotes(f"http://127.0.0.1:{proxy.port}")
        guard = premortem.Guard(HERE / "register.yaml", risks=HERE / "risks")
        home = asked.home or Path(folder) / "home"
        async with guard.watching(QuoteWorkload(quotes), home=home, probation=5, say=print) as watch:
            await story(watch, quotes, proxy, faulty=asked.fault != "none")
            for found in incidents(watch.ledger):
                tried = ", ".join(f"{rung.rung}: {rung.verdict}" for rung in found.rungs)
                print(f"incident {found.number}: {found.verdict} after {found.after_rung!r} ({tried})")
            print("healthy at the end" if watch.standing.is_healthy else "not healthy at the end")


if __name__ == "__main__":
    asyncio.run(main())
