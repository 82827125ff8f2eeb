"""The service over HTTP: an ASGI application for a service that is started and closed elsewhere.

Needs the extra ``serve``. ``server`` puts it behind a socket, and ends it in good order.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from premortem.core.errors import ConfigError
from premortem.stages.serve.service.exposition import Exposition
from premortem.stages.serve.service.reply import Reason, Refused, Unknown
from premortem.stages.serve.service.schemas import (
    Health,
    Models,
    Problem,
    Readiness,
    SolveReply,
    SolveRequest,
    plain_reply,
    plain_scores,
    whole_seconds,
)
from premortem.stages.serve.service.service import Service

SOLVE = "/v1/solve/"
MOST_BYTES = 1 << 16
"""Of a request's body."""
_LONGEST_NAME = 60
"""Characters of a key that a client made up, as it is told in an error."""
STATUS: dict[Reason, int] = {
    "full": 429, "slow": 429, "starting": 503, "closing": 503, "timeout": 504, "worker": 503, "model": 503,
}  # fmt: skip
_RETRY = {"Retry-After": {"description": "Whole seconds.", "schema": {"type": "integer", "minimum": 1}}}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    404: {"model": Problem, "description": "No such task, or no such version of its model."},
    413: {"model": Problem, "description": f"The body is larger than {MOST_BYTES} bytes."},
    422: {"model": Problem, "description": "Malformed, of a wrong type, or unsolvable."},
    429: {"model": Problem, "description": "The queue is full, or the wait would be too long.", "headers": _RETRY},
    503: {"model": Problem, "description": "No worker is ready, or the service is shutting down.", "headers": _RETRY},
    504: {"model": Problem, "description": "No answer within the time allowed."},
}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/SolveRequest"}}},
    }
}


class _TooLargeError(Exception):
    """The body is larger than is read."""


def build_app(service: Service) -> FastAPI:
    """The application."""
    app = FastAPI(title="premortem inference", version="1", docs_url=None, redoc_url=None, openapi_url="/openapi.json")
    _add_solving(app, service)
    _add_looking(app, service, Exposition(service))
    _describe(app, service)
    app.exception_handler(HTTPException)(_told)
    return app


def _add_solving(app: FastAPI, service: Service) -> None:
    async def solve(task: str, request: Request) -> Response:
        """Solve one puzzle; the reply says who answered, how deep it thought, and whether the answer is right."""
        try:
            given = SolveRequest.model_validate_json(await _body(request))
            timeout_s = None if given.timeout_ms is None else given.timeout_ms / 1e3
            reply = await service.answer(given.puzzle, task=task, model=given.model, timeout_s=timeout_s)
        except Refused as refused:
            return _refusal(refused)
        except ValidationError as error:
            return _problem(422, _first_of(error), "request")
        except Unknown as error:
            return _problem(404, str(error), "unknown")
        except ConfigError as error:
            return _problem(422, str(error), "request")
        except _TooLargeError:
            told = f"the body is larger than {MOST_BYTES} bytes, expected one puzzle"
            return _problem(413, told, "size", {"Connection": "close"})
        except ClientDisconnect:
            return _problem(422, "the client hung up before its body was there", "request")  # nobody reads it
        except asyncio.CancelledError:
            if not service.is_closing:
                raise
            # the grace is over for one whose body never came; uvicorn would send a plain 500
            told = "the body was not there within the grace"
            return _refusal(Refused("closing", told, retry_after_s=5.0, was_accepted=False))
        return Response(msgspec.json.encode(plain_reply(reply)), media_type="application/json")

    app.post(f"{SOLVE}{{task}}", response_model=SolveReply, responses=_RESPONSES, openapi_extra=_BODY)(solve)
    app.add_middleware(_Shortcut, solve=solve)


class _Shortcut:
    """Calls ``solve`` without the router and its dependencies, which take longer than all else that a refusal takes.

    Under twice the load that can be answered every second request is a refusal, and the worker wants the time.
    """

    def __init__(self, app: ASGIApp, solve: Callable[[str, Request], Awaitable[Response]]) -> None:
        self._app, self._solve = app, solve

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"].startswith(SOLVE):
            task = scope["path"][len(SOLVE) :]
            if task and "/" not in task:
                response = await self._solve(task, Request(scope, receive))
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _add_looking(app: FastAPI, service: Service, exposition: Exposition) -> None:
    @app.get("/v1/models", response_model=Models)
    async def models() -> Models:
        """What is served, in which version, and how well each policy does."""
        rows = []
        for name, task in service.tasks.items():
            standin, model = service.dispatch.standins.get(name), service.crew.models[name]
            link = service.crew.current
            rows.append({
                "task": name, "size": task.size, "cells": task.cells, "largest_token": task.largest,
                "version": model.version, "load": link.spec.load if link else 0, "depth": service.depth,
                "policy": service.policy_of(name), "fallback": standin.fallback.name if standin else None,
                "scores": plain_scores(service.book.scores.get(name, {})),
            })  # fmt: skip
        return Models.model_validate({"models": rows})

    @app.get("/healthz", response_model=Health)
    async def healthz() -> Health:
        """The process is there, whatever its worker does."""
        return Health(status="alive")

    @app.get("/readyz", response_model=Readiness, responses={503: {"model": Readiness, "headers": _RETRY}})
    async def readyz() -> Response:
        """Whether every task is answered now."""
        if service.is_ready:
            return JSONResponse({"ready": True, "reason": ""})
        headers = {"Retry-After": whole_seconds(service.crew.ready_in_s)}
        return JSONResponse({"ready": False, "reason": service.unready}, 503, headers)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Figures for Prometheus, in its text format."""
        return Response(exposition.text(), media_type=CONTENT_TYPE_LATEST)


def _describe(app: FastAPI, service: Service) -> None:
    """The body is read by hand, so that its size is bounded before anything parses it; OpenAPI must know it still.

    It names the tasks that are served and what their puzzles look like, as soon as a worker has said so.
    """
    original: Callable[[], dict[str, Any]] = app.openapi

    def openapi() -> dict[str, Any]:
        schema = copy.deepcopy(original())  # FastAPI keeps its own and hands it out again
        body = SolveRequest.model_json_schema(ref_template="#/components/schemas/{model}")
        schema["components"]["schemas"].setdefault("SolveRequest", body)
        if tasks := service.tasks.values():
            path = schema["paths"][f"{SOLVE}{{task}}"]["post"]["parameters"][0]["schema"]
            path["enum"] = sorted(service.tasks)
            puzzle = body["properties"]["puzzle"]
            puzzle["minItems"], puzzle["maxItems"] = min(t.cells for t in tasks), max(t.cells for t in tasks)
            puzzle["items"]["maximum"] = max(t.largest for t in tasks)
        return schema

    app.openapi = openapi  # type: ignore[method-assign]  # the way that FastAPI documents


async def _body(request: Request) -> bytes:
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > MOST_BYTES:
        raise _TooLargeError
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MOST_BYTES:
            raise _TooLargeError
    return bytes(body)


def _first_of(error: ValidationError) -> str:
    """The first mistake in one line of bounded length, whatever a client calls its keys."""
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(_plain(part) for part in first["loc"])
    told = f"{where}: {first['msg']}" if where else str(first["msg"])
    is_about_a_value = first["type"] not in ("json_invalid", "missing", "extra_forbidden")
    return f"{told}, found {first['input']!r:.{_LONGEST_NAME}}" if is_about_a_value else told


def _plain(part: int | str) -> str:
    text = str(part)
    is_plain = text.isascii() and text.replace("_", "").isalnum() and len(text) <= _LONGEST_NAME
    return text if is_plain else f"{text!r:.{_LONGEST_NAME}}"


def _refusal(refused: Refused) -> Response:
    status = STATUS[refused.reason]
    headers = {} if status == 504 else {"Retry-After": whole_seconds(refused.retry_after_s)}
    return _problem(status, str(refused), refused.reason, headers)


def _problem(status: int, text: str, reason: str, headers: dict[str, str] | None = None) -> Response:
    body = msgspec.json.encode({"error": text, "reason": reason})
    return Response(body, status, headers, media_type="application/json")


async def _told(request: Request, error: Exception) -> Response:
    """A path or method that there is not, in the same form as every other error."""
    assert isinstance(error, HTTPException)
    return _problem(error.status_code, str(error.detail), "unknown", dict(error.headers or {}))
