"""Work beside the writing of a bundle: on a thread of its own or, where there is no memory for one, at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from premortem.machine.threads import Begun, begin

P = ParamSpec("P")
T = TypeVar("T")


class Lane:
    """Takes calls in order; leaving it waits for them.

    One thread at most, begun with a bound: where memory is too short for one, a pool's would be waited for for ever.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: Begun | None = None
        self._is_here = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is not None:
            self._calls.put(None)
            self._thread.join()

    def submit(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """What comes of the call, later; a bundle is saved slowly rather than not at all."""
        done: Future[T] = Future()
        work = partial(_settle, done, partial(call, *args, **kwargs))
        if self._thread is None and not self._is_here:
            self._thread = begin(self._work)
            self._is_here = self._thread is None
        if self._is_here:
            work()
        else:
            self._calls.put(work)
        return done

    def _work(self) -> None:
        while (work := self._calls.get()) is not None:
            work()


def _settle(done: Future[Any], call: Callable[[], Any]) -> None:
    try:
        done.set_result(call())
    except BaseException as error:
        done.set_exception(error)
