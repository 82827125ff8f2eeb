"""Runs what may hang beside the loop, with a limit on patience."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from premortem.machine.threads import Begun, begin

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What came back: a value, an error, or nothing in time (``came`` is False). ``why`` is one line."""

    value: T | None = None
    error: Exception | None = None
    came: bool = True
    why: str = ""


class Patience:
    """One lane a name: while a call on a lane hangs, the lane is left alone and every further call fails at once.

    Covered: a call that never returns, or late. Not covered: one that holds the interpreter's lock.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._hanging: dict[str, Begun] = {}

    def run(self, lane: str, act: Callable[[], T]) -> Answer[T]:
        """Call ``act``; never raises what it raises, never waits longer than the patience."""
        busy = self._hanging.get(lane)
        if busy is not None and busy.is_alive():
            return Answer(came=False, why=f"an earlier call on {lane!r} still hangs")
        answers: list[Answer[T]] = []

        def body() -> None:
            try:
                answers.append(Answer(act()))
            except Exception as error:
                answers.append(Answer(error=error, why=f"{type(error).__name__}: {error}"))

        thread = begin(body)
        if thread is None:  # no memory for a thread, where memory is what runs short: better late than never
            body()
            return answers[0]
        thread.join(self.seconds)
        if not answers:
            self._hanging[lane] = thread
            return Answer(came=False, why=f"no answer within {self.seconds:g} s")
        return answers[0]
