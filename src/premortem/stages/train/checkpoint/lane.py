"""Work beside the writing of a bundle: on a thread of its own or, where there is no memory for one, at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Lane:
    """Takes calls in order; leaving it waits for them.

    One thread at most: a pool of several that cannot start its second one has queued the call already, and would
    make it twice.
    """

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, name)
        self._is_here = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True)

    def submit(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """What comes of the call, later; a bundle is saved slowly rather than not at all."""
        if not self._is_here:
            try:
                return self._pool.submit(call, *args, **kwargs)
            except RuntimeError:  # can't start new thread: its stack alone takes megabytes
                self._is_here = True
        done: Future[T] = Future()
        try:
            done.set_result(call(*args, **kwargs))
        except BaseException as error:
            done.set_exception(error)
        return done
