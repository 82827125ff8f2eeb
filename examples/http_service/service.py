"""A small price service: it asks an upstream for each price, and can do with less when that fails.

`Quotes` is the service and knows nothing of risks. `QuoteWorkload` shows it to the guard.
"""

from __future__ import annotations

import asyncio
from collections import deque

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from premortem.core.signal import Signal
from premortem.parts.controls import HeldSetting

TIMEOUT_S = 0.5
"""For one try at the upstream."""


class Quotes:
    """`GET /quote/{item}` answers with a price and says where it has it from: live, cache or degraded."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.retries, self.answers, self.mode = 0.0, "live", "full"
        self.cache: dict[str, float] = {}
        self.sources: list[str] = []
        self._probes: deque[bool] = deque(maxlen=3)
        # a connection each: what is kept open would outlive a fault that only meets new ones
        limits = httpx.Limits(max_keepalive_connections=0)
        self._client = httpx.AsyncClient(base_url=upstream, timeout=TIMEOUT_S, limits=limits)
        self.app = Starlette(routes=[Route("/quote/{item}", self._quote)])

    async def _quote(self, request: Request) -> JSONResponse:
        item = request.path_params["item"]
        price, source = await self._price(item)
        self.sources.append(source)
        return JSONResponse({"item": item, "price": price, "source": source}, 502 if source == "failed" else 200)

    async def _price(self, item: str) -> tuple[float | None, str]:
        if self.answers == "cached" and item in self.cache:
            return self.cache[item], "cache"
        if self.mode == "degraded":
            return None, "degraded"
        for _ in range(1 + int(self.retries)):
            price = await self._ask(item)
            if price is not None:
                self.cache[item] = price
                return price, "live"
        return None, "failed"

    async def _ask(self, item: str) -> float | None:
        try:
            reply = await self._client.get(f"/{item}")
            return float(reply.json()["price"]) if reply.status_code == 200 else None
        except (httpx.HTTPError, ValueError, KeyError):
            return None

    async def probe(self) -> None:
        """Ask the upstream for something that is always there, whatever the service itself answers from."""
        self._probes.append(await self._ask("item-0") is not None)

    def window(self) -> dict[str, float | None]:
        """What the answers since the last window were, as shares from 0 to 1; nothing asked is nothing known."""
        taken, self.sources = self.sources, []

        def share(source: str) -> float | None:
            return taken.count(source) / len(taken) if taken else None

        failed = 1.0 - sum(self._probes) / len(self._probes) if self._probes else None
        return {"failed": share("failed"), "cached": share("cache"), "degraded": share("degraded"),
                "upstream_silent": failed}  # fmt: skip

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.aclose()


class QuoteWorkload:
    """The service as the guard sees it. A tick is a window of requests."""

    kind = "http-service"
    signals = (
        Signal("failed", "of answers", help="answers with status 502"),
        Signal("cached", "of answers", help="answered from what was seen before"),
        Signal("degraded", "of answers", help="answered without a price"),
        Signal("upstream_silent", "of probes", help="of the last three"),
    )

    def __init__(self, quotes: Quotes) -> None:
        def set_(name: str) -> HeldSetting:
            return HeldSetting(getattr(quotes, name), lambda v: setattr(quotes, name, v), lambda: getattr(quotes, name))

        self.controls = {"retries": set_("retries"), "answers": set_("answers"), "mode": set_("mode")}
        self.witnesses: dict[str, str] = {}
        self.conditions: dict[str, object] = {}


async def ask_all(client: httpx.AsyncClient, items: list[str]) -> None:
    """What clients do: one request for each item, together."""
    await asyncio.gather(*(client.get(f"/quote/{item}") for item in items))
