"""A restarted guard puts the world back as it remembers it, before anything else (law 11).

Each control with a remembered override is read first: what still stands is left alone, what is gone is turned
again and read again. A one-shot request is never repeated: whether it was done is settled by its read-back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from premortem.core.action import Outcome, Override, Owner
from premortem.core.command import Target
from premortem.core.desk import RESUME
from premortem.core.site import Site

Step = tuple[Literal["undo", "read", "turn"], str, Owner | None, Override | None]


class Resume:
    """Works off its steps, one outcome at a time.

    Args:
        site: the workload as expected; its stacks hold what is remembered.
        lost: told of a control that could not be put back.
        done: called once at the end.
    """

    def __init__(self, site: Site, lost: Callable[[str], None], done: Callable[[], None]) -> None:
        self._site = site
        self._lost = lost
        self._done = done
        self._steps: list[Step] = []
        self._tried: set[str] = set()
        self.is_open = False

    def begin(self, controls: Iterable[str], strangers: Iterable[tuple[str, Owner]]) -> None:
        """Undo the overrides of ``strangers``, rungs that no register knows any more; put the rest in force."""
        self.is_open = True
        self._tried.clear()
        self._steps = [("undo", control, owner, None) for control, owner in strangers]
        self._steps += [("read", control, None, None) for control in controls]
        self._next()

    def outcome(self, outcome: Outcome) -> None:
        """What came of the first step."""
        verb, control, _, _ = self._steps.pop(0)
        if verb == "read" and not self._site.fits(control, outcome):
            if control in self._tried:
                self._lost(control)
            else:
                self._turn_again(control)
        self._next()

    def _turn_again(self, control: str) -> None:
        stack = self._site.stacks[control]
        stack.base = self._site.plan.bases[control]  # it did not persist: what was read at the start is its base
        self._tried.add(control)
        again: list[Step] = [("turn", control, owner, stack.override(owner)) for owner in stack.owners]
        self._steps[0:0] = [*again, ("read", control, None, None)]

    def _next(self) -> None:
        if not self._steps:
            self.is_open = False
            self._done()
            return
        verb, control, owner, override = self._steps[0]
        rung = "" if owner is None else owner.rung
        expected = self._site.stacks[control].effective
        desk = self._site.desk
        record = desk.record(
            "intent", "", None, verb=verb, rung=rung, control=control, expected=expected, why="after a restart"
        )
        desk.ask(verb, RESUME, record, Target(control, owner, override))
