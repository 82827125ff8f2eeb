"""The accounts of a service: an accepted request is in here until it is answered, refused or withdrawn.

accepted = answered + broken + withdrawn + waiting, at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from premortem.stages.serve.service.latency import Samples
from premortem.stages.serve.service.reply import Answer, Pending, Policy, Reason, Refused, Reply, Score


@dataclass(slots=True)
class Counts:
    """Since the start."""

    accepted: int = 0
    answered: Counter[Policy] = field(default_factory=Counter)
    """By the policy that answered."""
    refused: Counter[Reason] = field(default_factory=Counter)
    """Not accepted, by reason."""
    broken: Counter[Reason] = field(default_factory=Counter)
    """Accepted and then refused, by reason; ``timeout`` are those that ran out of time."""
    withdrawn: int = 0
    """By the client, before an answer."""
    cache_hits: int = 0
    retried: int = 0
    """Asked of a second worker, as the first ended over them."""


class Book:
    """Requests that wait, and the counts. Used on the service's loop alone, except for reading."""

    def __init__(self) -> None:
        self.counts = Counts()
        self.samples = Samples()
        self.scores: dict[str, dict[Policy, Score]] = {}
        self.watchers: list[Callable[[str, Policy | None, float], None]] = []
        """Told task, policy and milliseconds of every answer; ``None`` for the policy: it ran out of time."""
        self._open: dict[int, Pending] = {}

    def __len__(self) -> int:
        return len(self._open)

    def get(self, number: int) -> Pending | None:
        """A request that still waits."""
        return self._open.get(number)

    def waiting(self) -> list[Pending]:
        """All that wait, the oldest first."""
        return list(self._open.values())

    @property
    def oldest_s(self) -> float:
        """Seconds that the oldest of them has waited; 0 where none waits. Safe from any thread."""
        while True:
            with contextlib.suppress(RuntimeError):  # the loop added or removed one meanwhile
                oldest = next(iter(self._open.values()), None)
                return 0.0 if oldest is None else max(0.0, time.monotonic() - oldest.accepted_at)

    @property
    def oldest_number(self) -> float:
        """Number of the one that has waited longest; infinite where none waits. Safe from any thread."""
        while True:
            with contextlib.suppress(RuntimeError):
                return next(iter(self._open), math.inf)

    def accept(self, task: str, puzzle: bytes, depth: int, timeout_s: float) -> Pending:
        """From here on it is owed an answer, or a reason."""
        loop, now = asyncio.get_running_loop(), time.monotonic()
        self.counts.accepted += 1
        number = self.counts.accepted
        pending = Pending(number, task, puzzle, depth, now, now + timeout_s, loop.create_future())
        pending.timer = loop.call_later(timeout_s, self._expire, pending, timeout_s)
        self._open[number] = pending
        return pending

    def answer(self, pending: Pending, answer: Answer, *, cached: bool = False) -> None:
        """Settle it. An answer that nobody waits for any more is passed over."""
        if not self._close(pending):
            return
        now = time.monotonic()
        scores = self.scores.setdefault(pending.task, {})
        score = scores.setdefault(answer.policy, Score())
        score.answered += 1
        score.right += answer.valid
        self.counts.answered[answer.policy] += 1
        self.counts.cache_hits += cached
        if not cached:  # how long it takes to look one up says nothing of who computes them
            self.samples.add(pending.accepted_at, now)
        waited_ms = (now - pending.accepted_at) * 1e3
        for tell in self.watchers:
            tell(pending.task, answer.policy, waited_ms)
        pending.future.set_result(Reply(pending.number, pending.task, answer, pending.depth, cached, waited_ms, scores))

    def refuse(self, pending: Pending, reason: Reason, detail: str, retry_after_s: float = 1.0) -> None:
        """Settle it without an answer, saying why."""
        if not self._close(pending):
            return
        self.counts.broken[reason] += 1
        if reason == "timeout":
            self.samples.add(pending.accepted_at, now := time.monotonic())
            for tell in self.watchers:
                tell(pending.task, None, (now - pending.accepted_at) * 1e3)
        told = f"request {pending.number}, {detail}"
        pending.future.set_exception(Refused(reason, told, retry_after_s=retry_after_s, was_accepted=True))
        pending.future.exception()  # the client may have gone: that is no fault to warn of

    def withdraw(self, pending: Pending) -> None:
        """The client does not wait any longer."""
        if self._close(pending):
            self.counts.withdrawn += 1
            pending.future.cancel()

    def _close(self, pending: Pending) -> bool:
        if self._open.pop(pending.number, None) is None:
            return False
        if pending.timer is not None:
            pending.timer.cancel()
        return True

    def _expire(self, pending: Pending, timeout_s: float) -> None:
        self.refuse(pending, "timeout", f"{timeout_s:g} s after it was accepted")
