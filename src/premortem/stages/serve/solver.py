"""One inference worker in one process: puzzles in, answers out, and no accepted request is dropped in silence.

A queue with a bound, batches up to a cap, a cache of thoughts. It can refuse new work while it finishes what it has
accepted (emergency), forget its cache, cap its batch, and load its model anew. It knows nothing of risks, and has no
network: a service puts one in front.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal

import torch

from premortem.core.errors import ConfigError
from premortem.stages.serve.answer import Answer, Counts, Lost, Refused, Request, Source
from premortem.stages.serve.cache import AnswerCache, Thought
from premortem.stages.serve.reasoner import Reasoner, hand_back, is_out_of_memory

Admission = Literal["open", "emergency", "closed"]
_NAP_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """``queue``: requests that may wait; ``batch``: puzzles computed together at most; ``cache``: entries kept,
    ``None`` without bound; ``segments``: depth where a request names none, 0 for the model's own limit."""

    queue: int = 1024
    batch: int = 64
    cache: int | None = 4096
    segments: int = 0

    def __post_init__(self) -> None:
        for name, least in (("queue", 1), ("batch", 1), ("segments", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"setting {name}: found {getattr(self, name)}, expected at least {least}")


class Solver:
    """The worker. Safe to call from several threads; whoever calls :meth:`work` or :meth:`serve` computes.

    Args:
        reasoner: the model.
        settings: bounds and defaults.
        clock: monotonic seconds.
    """

    def __init__(
        self, reasoner: Reasoner, settings: Settings | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.settings = settings or Settings()
        self.reasoner = reasoner
        self.cache: AnswerCache[Thought] = AnswerCache(self.settings.cache)
        self.counts = Counts()
        self.batch_cap: float = self.settings.batch
        self.batch_in_force: float = self.settings.batch
        """The cap by which the newest turn went: what the worker does, not what was asked for."""
        self._admission: Admission = "open"
        self._clock = clock
        self._queue: deque[Request] = deque()
        self._queued = threading.Condition()
        self._turn = threading.RLock()  # one at a time: a batch, or a change of what batches use

    # --- what clients do ---------------------------------------------------------------------

    def submit(self, puzzle: Sequence[int], segments: int = 0) -> Future[Answer]:
        """Ask for a solution.

        Args:
            puzzle: C tokens, 0 is a blank and 1..size a digit.
            segments: depth at most; 0 takes the worker's setting.

        Raises:
            ConfigError: for what is no puzzle of this model.
            Refused: the queue is full, or the worker takes no new work; nothing was accepted.
        """
        key = self._key(puzzle)
        most = self.reasoner.config.halting.max_segments
        depth = segments or self.settings.segments or most
        if not 1 <= depth <= most:
            raise ConfigError(f"segments: found {depth}, expected 1 to {most}")
        with self._queued:
            self._refuse_if_must()
            self.counts.accepted += 1
            request = Request(self.counts.accepted, key, depth, self._clock())
            self._queue.append(request)
            self._queued.notify()
        return request.future

    def _key(self, puzzle: Sequence[int]) -> bytes:
        config = self.reasoner.config
        try:
            key = bytes(puzzle)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"puzzle: found {puzzle!r:.60}, expected {config.seq_len} whole numbers") from error
        if len(key) != config.seq_len or max(key) >= config.vocab_size:
            raise ConfigError(
                f"puzzle: found {len(key)} tokens, the largest {max(key, default=0)}, "
                f"expected {config.seq_len} from 0 to {config.vocab_size - 1}"
            )
        return key

    def _refuse_if_must(self) -> None:
        if self._admission == "open" and len(self._queue) < self.settings.queue:
            return
        self.counts.refused += 1
        if self._admission == "open":
            raise Refused(f"the queue is full: {len(self._queue)} requests wait; ask again later")
        raise Refused(f"no new work is taken ({self._admission}): what was accepted is being finished")

    # --- what the worker does ----------------------------------------------------------------

    def work(self) -> int:
        """Answer one batch from the head of the queue; returns how many requests were settled."""
        with self._turn:
            self.batch_in_force = self.batch_cap
            if not self.reasoner.is_loaded:
                return 0  # they wait for a model rather than be lost
            batch = self._take(max(1, int(self.batch_cap)))
            rest = [request for request in batch if not self._answer_from_cache(request)]
            if rest:
                self._compute(rest)
            return len(batch)

    def serve(self, stop: threading.Event) -> None:
        """Work until told to stop, and then until nothing waits."""
        while not stop.is_set() or self.queue_length:
            with self._queued:
                self._queued.wait_for(lambda: bool(self._queue) or stop.is_set(), timeout=_NAP_S)
            if not self.work() and stop.is_set() and not self.reasoner.is_loaded:
                self._lose(self._take(self.queue_length), Lost("the worker stops without a model"))

    def _take(self, count: int) -> list[Request]:
        with self._queued:
            taken = [self._queue.popleft() for _ in range(min(count, len(self._queue)))]
            kept = [request for request in taken if request.future.set_running_or_notify_cancel()]
            self.counts.withdrawn += len(taken) - len(kept)
            return kept

    def _answer_from_cache(self, request: Request) -> bool:
        thought = self.cache.get(request.puzzle)
        if thought is None or not thought.serves(request.segments):
            return False
        self.counts.from_cache += 1
        self._answer(request, thought, "cache", 0)
        return True

    def _compute(self, batch: list[Request]) -> None:
        """All of them at once; where that does not fit, in halves. One that fails alone is lost, and told so."""
        held = [self.cache.get(request.puzzle) for request in batch]
        try:
            puzzles = torch.tensor([list(request.puzzle) for request in batch])
            self.counts.largest_batch = max(self.counts.largest_batch, len(batch))
            thoughts = self.reasoner.think(puzzles, [request.segments for request in batch], held)
        except Exception as error:
            if not is_out_of_memory(error):
                self._lose(batch, error)
                return
            failure = error
        else:
            for request, thought, start in zip(batch, thoughts, held, strict=True):
                self.cache.put(request.puzzle, thought)
                self._answer(request, thought, "computed" if start is None else "continued", len(batch))
            return
        self.counts.out_of_memory += 1
        if len(batch) == 1:
            self._lose(batch, failure)
            return
        del failure  # its traceback holds the tensors of the batch that did not fit
        hand_back(self.reasoner.device)
        self._compute(batch[: len(batch) // 2])
        self._compute(batch[len(batch) // 2 :])

    def _answer(self, request: Request, thought: Thought, source: Source, batch: int) -> None:
        self.counts.answered += 1
        waited = self._clock() - request.accepted_at
        request.future.set_result(
            Answer(
                request.number, thought.tokens, thought.segments, thought.halted, source, batch, thought.model, waited
            )
        )

    def _lose(self, batch: list[Request], cause: Exception) -> None:
        for request in batch:
            self.counts.lost += 1
            told = Lost(f"request {request.number} was accepted and could not be answered: {cause}")
            told.__cause__ = cause
            request.future.set_exception(told)

    # --- what can be turned ------------------------------------------------------------------

    @property
    def admission(self) -> Admission:
        """Whether new work is taken."""
        return self._admission

    @admission.setter
    def admission(self, admission: Admission) -> None:
        if admission not in ("open", "emergency", "closed"):
            raise ConfigError(f"admission: found {admission!r}, expected open, emergency or closed")
        with self._queued:
            self._admission = admission

    def clear_cache(self) -> None:
        """Forget every thought, between two batches, and hand the memory back."""
        with self._turn:
            self.cache.clear()
            hand_back(self.reasoner.device)

    def cap_batch(self, cap: float) -> None:
        """Compute at most so many together from the next turn on; at least one, whatever is asked."""
        with self._turn:
            self.batch_cap = cap
            hand_back(self.reasoner.device)

    def reload(self) -> None:
        """Drop the model with all that hangs on it, the cache too, and load it anew; requests wait meanwhile.

        Raises StageError where the bundle does not verify (the old model stays) or cannot be read (none is left).
        """
        with self._turn:
            self.cache.clear()
            self.reasoner.load()

    # --- what can be read --------------------------------------------------------------------

    @property
    def queue_length(self) -> int:
        """Requests that were accepted and have not had their turn."""
        return len(self._queue)

    @property
    def oldest_s(self) -> float:
        """Seconds that the oldest of them has waited; 0 where none waits."""
        with self._queued:
            return self._clock() - self._queue[0].accepted_at if self._queue else 0.0
