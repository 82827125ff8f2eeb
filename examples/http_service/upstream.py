"""The second server: prices of 50 items, in a process of its own. Its first line of output is its port."""

from __future__ import annotations

import socket

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


async def price(request: Request) -> JSONResponse:
    """What an item costs."""
    number = int(request.path_params["number"])
    return JSONResponse({"price": 10.0 + number}, 200 if number < 50 else 404)


if __name__ == "__main__":
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    print(listener.getsockname()[1], flush=True)
    app = Starlette(routes=[Route("/item-{number:int}", price)])
    uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listener])
