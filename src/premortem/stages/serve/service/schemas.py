"""What goes over HTTP, and how it is described in OpenAPI."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StrictInt

from premortem.stages.serve.service.reply import Policy, Reason, Reply, Score

_BLANK_SUDOKU: list[JsonValue] = [1, 0, 0, 4, 0, 4, 1, 0, 0, 1, 4, 0, 4, 0, 0, 1]
_SOLVED: list[JsonValue] = [1, 2, 3, 4, 3, 4, 1, 2, 2, 1, 4, 3, 4, 3, 2, 1]
MOST_CELLS = 1024


class SolveRequest(BaseModel):
    """One puzzle, row by row."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"puzzle": _BLANK_SUDOKU, "timeout_ms": 500}]}
    )

    puzzle: Annotated[list[Annotated[StrictInt, Field(ge=0, le=255)]], Field(min_length=1, max_length=MOST_CELLS)]
    """Tokens; Sudoku: 0 is a blank; maze: 0 wall, 1 free, 2 start, 3 goal."""
    model: Annotated[str | None, Field(max_length=200)] = None
    """Version that must answer; any where it is left out."""
    timeout_ms: Annotated[float | None, Field(gt=0, le=600_000, strict=True)] = None
    """Allowed for the answer; the service's setting where it is left out."""


class PolicyScore(BaseModel):
    """How well a policy has done on this task since the start."""

    answered: int
    solve_rate: float | None


class SolveReply(BaseModel):
    """An answer, and how it came to be."""

    model_config = ConfigDict(json_schema_extra={"examples": [{
        "number": 1, "task": "sudoku", "solution": _SOLVED, "valid": True, "policy": "hrm",
        "model": "step-00001200@29c0417e", "load": 1, "depth": 8, "segments": 2, "steps": None, "halted": True,
        "cached": False, "batch": 1, "waited_ms": 11.2, "scores": {"hrm": {"answered": 1, "solve_rate": 1.0}},
    }]})  # fmt: skip

    number: int
    task: str
    solution: list[int]
    valid: bool
    """Whether it was checked against the rules of the task and is right."""
    policy: Policy
    """Who answered."""
    model: str
    load: int
    """Which start of the worker computed it; 0 for the fallback."""
    depth: int
    """Segments of reasoning that were allowed."""
    segments: int
    """Segments that it rests on; 0 for the fallback."""
    steps: int | None
    """Steps that the fallback took."""
    halted: bool
    cached: bool
    batch: int
    waited_ms: float
    scores: dict[Policy, PolicyScore]


class Problem(BaseModel):
    """Why there is no answer, in one line."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"error": "unsolvable: row 1 holds the digit 1 twice", "reason": "request"}]}
    )

    error: str
    reason: Reason | Literal["request", "unknown", "size"]


class ServedModel(BaseModel):
    """One task, and who answers it."""

    task: str
    size: int
    cells: int
    largest_token: int
    version: str
    load: int
    depth: int
    policy: Policy
    fallback: str | None
    scores: dict[Policy, PolicyScore]


class Models(BaseModel):
    """All that is served."""

    models: list[ServedModel]


class Health(BaseModel):
    """The process is there."""

    status: Literal["alive"]


class Readiness(BaseModel):
    """Whether every task is answered now, and why not."""

    ready: bool
    reason: str


def plain_scores(scores: dict[Policy, Score]) -> dict[str, dict[str, Any]]:
    """As :class:`PolicyScore` has them."""
    return {name: {"answered": score.answered, "solve_rate": score.solve_rate} for name, score in scores.items()}


def plain_reply(reply: Reply) -> dict[str, Any]:
    """As :class:`SolveReply` has it, ready to be encoded."""
    answer = reply.answer
    return {
        "number": reply.number, "task": reply.task, "solution": list(answer.tokens), "valid": answer.valid,
        "policy": answer.policy, "model": answer.model, "load": answer.load, "depth": reply.depth,
        "segments": answer.segments, "steps": answer.steps, "halted": answer.halted, "cached": reply.cached,
        "batch": answer.batch, "waited_ms": round(reply.waited_ms, 3), "scores": plain_scores(reply.scores),
    }  # fmt: skip


def whole_seconds(seconds: float) -> str:
    """For Retry-After: whole, and at least one."""
    return str(max(1, math.ceil(seconds)))
