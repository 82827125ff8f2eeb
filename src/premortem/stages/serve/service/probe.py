"""Canary requests to the worker, at a low rate, beside the clients: how it does while the fallback answers for it."""

from __future__ import annotations

import time
from collections import deque
from statistics import median
from typing import TYPE_CHECKING

from premortem.stages.serve.service.frames import Puzzle, Thought

if TYPE_CHECKING:
    from premortem.stages.serve.service.service import Service

_KEPT = 5


class Probe:
    """Asks the worker one canary puzzle at a time, by numbers below 0, which no client has.

    The puzzle is blank: what comes out is not looked at, only when. A probe is asked at the depth in force, waits in
    line with the clients' puzzles, and is in nobody's accounts.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._asked: dict[int, float] = {}
        self._number = 0
        self._took_ms: deque[float] = deque(maxlen=_KEPT)
        service.dispatch.on_canary = self._heard

    def ask(self) -> None:
        """Ask once, unless one is on its way to the worker that is there. Call it on the service's loop."""
        service = self._service
        link = service.crew.current
        if link is None or any(number in link.at_work for number in self._asked):
            return
        self._asked.clear()  # whom those were asked of is gone
        for task, kind in service.tasks.items():
            self._number -= 1
            self._asked[self._number] = time.monotonic()
            depth = service.dispatch.depth_for(task)
            service.dispatch.depth_in_force = service.depth
            link.ask([Puzzle(self._number, task, bytes(kind.cells), depth)])

    def begin_anew(self) -> None:
        """What was measured so far belongs to other settings."""
        self._took_ms.clear()

    @property
    def p50_ms(self) -> float | None:
        """Median of the newest answers; the age of a probe that is not answered, where that is more."""
        waiting = [(time.monotonic() - at) * 1e3 for at in list(self._asked.values())]
        took = list(self._took_ms)
        if len(took) < _KEPT and not (waiting and took and max(waiting) > max(took)):
            return None
        return max(median(took), *waiting) if waiting and max(waiting) > max(took) else median(took)

    def _heard(self, thought: Thought) -> None:
        at = self._asked.pop(thought.number, None)
        if at is not None:
            self._took_ms.append((time.monotonic() - at) * 1e3)
