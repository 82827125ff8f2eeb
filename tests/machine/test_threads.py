"""A thread that cannot begin never holds up who wants it."""

from __future__ import annotations

import _thread
import threading
from types import FrameType

import pytest

from premortem.machine.threads import begin


def test_a_thread_runs_its_body_and_tells_its_end() -> None:
    said: list[int] = []
    go = threading.Event()
    thread = begin(lambda: (go.wait(10), said.append(threading.get_ident())))
    assert thread is not None
    assert thread.is_alive()
    assert not thread.is_current
    assert not thread.join(0.0)
    go.set()
    assert thread.join(10)
    assert not thread.is_alive()
    assert said != [threading.get_ident()]


def test_what_traces_the_threads_of_python_traces_this_one_too() -> None:
    """Debuggers and coverage ask ``threading`` to be told of new threads."""
    before, seen = threading.gettrace(), set[str]()

    def trace(frame: FrameType, event: str, arg: object) -> None:
        seen.add(frame.f_code.co_name)

    def told() -> None:
        pass

    threading.settrace(trace)
    try:
        thread = begin(told)
    finally:
        threading.settrace(before)  # type: ignore[arg-type]
    assert thread is not None
    assert thread.join(10)
    assert "told" in seen


def test_a_thread_that_dies_before_it_runs_is_given_up_and_its_body_never_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    start, began = _thread.start_new_thread, threading.Event()

    def dies(body: object, args: tuple[object, ...]) -> int:
        return start(began.set, ())  # a real thread, which ends without having come to the body

    monkeypatch.setattr(_thread, "start_new_thread", dies)
    said: list[str] = []
    assert begin(lambda: said.append("ran"), wait_s=0.05) is None
    assert began.wait(10)
    assert said == []


def test_a_thread_that_comes_late_finds_that_it_is_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    start, late, over = _thread.start_new_thread, threading.Event(), threading.Event()

    def comes_late(run: object, args: tuple[object, ...]) -> int:
        def later() -> None:
            late.wait(10)
            run(*args)  # type: ignore[operator]
            over.set()

        return start(later, ())

    monkeypatch.setattr(_thread, "start_new_thread", comes_late)
    said: list[str] = []
    assert begin(lambda: said.append("ran"), wait_s=0.05) is None
    late.set()
    assert over.wait(10)
    assert said == []
