"""What a client is told: an answer with its story, a refusal, or a loss. Nothing is dropped in silence."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal

from premortem.core.errors import StageError

Source = Literal["computed", "continued", "cache"]


class Refused(StageError):  # noqa: N818 - the word that a client is told
    """The request was not accepted, so nothing was promised: ask again later."""


class Lost(StageError):  # noqa: N818 - the word that a client is told
    """The request was accepted and could not be answered; the cause is chained."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One solved puzzle and what happened to it.

    Attributes:
        number: of the request, in the order of acceptance.
        tokens: one byte a cell, 0 is a blank and 1..size a digit.
        segments: how many segments of reasoning the answer rests on.
        halted: whether the model chose to stop there.
        source: ``computed`` from nothing, ``continued`` from a shallower cached thought, or from the ``cache``.
        batch: puzzles that were computed together with it; 0 from the cache.
        model: which load of which bundle computed it, such as ``step-7 (load 2)``.
        waited_s: from acceptance to answer.
    """

    number: int
    tokens: bytes
    segments: int
    halted: bool
    source: Source
    batch: int
    model: str
    waited_s: float


@dataclass(slots=True, eq=False)
class Request:
    """An accepted puzzle, one byte a cell, that waits for its answer."""

    number: int
    puzzle: bytes
    segments: int
    accepted_at: float
    future: Future[Answer] = field(default_factory=Future)


@dataclass(slots=True)
class Counts:
    """Since the start. ``accepted`` = answered + lost + withdrawn + those that still wait."""

    accepted: int = 0
    answered: int = 0
    refused: int = 0
    lost: int = 0
    withdrawn: int = 0
    """By the client, before their turn came."""
    from_cache: int = 0
    out_of_memory: int = 0
    """Batches that did not fit and were halved."""
    largest_batch: int = 0
