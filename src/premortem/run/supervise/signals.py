"""The user's signals, handed on to the command while it is supervised."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

PASSED_ON = (
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH,
    signal.SIGTSTP,
)  # fmt: skip


@contextlib.contextmanager
def handed_on(pass_on: Callable[[int], None]) -> Iterator[None]:
    """Listen for as long as the block runs, in the main thread only; what the user ignores (nohup) stays ignored."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in PASSED_ON:
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, lambda heard, frame: pass_on(heard))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
