"""What a client is told: a reply with its story, or a refusal with its reason. Nothing is dropped in silence."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Literal

from premortem.core.errors import ConfigError, StageError

Policy = Literal["hrm", "ppo"]
Reason = Literal["full", "slow", "starting", "closing", "timeout", "worker", "model"]

REASONS: dict[Reason, str] = {
    "full": "the queue is full",
    "slow": "the wait would be longer than is allowed",
    "starting": "no model is ready yet",
    "closing": "the service is shutting down",
    "timeout": "no answer within the time allowed",
    "worker": "the inference worker ended twice over this request",
    "model": "the model could not compute it",
}


class Refused(StageError):  # noqa: N818 - the word that a client is told
    """A request that is not answered, and why; ``was_accepted``: it waited, and the promise could not be kept."""

    def __init__(self, reason: Reason, detail: str, *, retry_after_s: float, was_accepted: bool) -> None:
        super().__init__(f"{REASONS[reason]}: {detail}")
        self.reason: Reason = reason
        self.retry_after_s = retry_after_s
        self.was_accepted = was_accepted


class Unknown(ConfigError):  # noqa: N818 - the word that a client is told
    """There is no such task, or no such version of its model."""


@dataclass(slots=True)
class Score:
    """How well a policy does: answers given, and those of them that were right."""

    answered: int = 0
    right: int = 0

    @property
    def solve_rate(self) -> float | None:
        """Share that was right; nothing is known before the first answer."""
        return self.right / self.answered if self.answered else None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a policy came to, as it is kept in the cache.

    Attributes:
        tokens: one byte a cell.
        policy: which policy.
        model: version of its model.
        load: which start of the worker computed it; 0 for the fallback.
        segments: of reasoning that it rests on; 0 for the fallback.
        steps: that the fallback took; ``None`` for the HRM.
        halted: whether the policy chose to stop there.
        batch: puzzles that were computed together with it.
        valid: whether it was checked and is right.
    """

    tokens: bytes
    policy: Policy
    model: str
    load: int
    segments: int
    steps: int | None
    halted: bool
    batch: int
    valid: bool


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer and how it came to this client.

    Attributes:
        number: of the request, in the order of acceptance.
        task: which task.
        answer: what the policy came to.
        depth: segments allowed.
        cached: whether it was known already.
        waited_ms: from acceptance to answer.
        scores: how well each policy has done on this task so far, this answer counted.
    """

    number: int
    task: str
    answer: Answer
    depth: int
    cached: bool
    waited_ms: float
    scores: dict[Policy, Score]


@dataclass(slots=True, eq=False)
class Pending:
    """An accepted request that waits for its answer. Times are seconds of the loop's clock."""

    number: int
    task: str
    puzzle: bytes
    depth: int
    accepted_at: float
    deadline: float
    future: asyncio.Future[Reply]
    timer: asyncio.TimerHandle | None = None
    tries: int = 0
    batch: list[int] = field(default_factory=list)
