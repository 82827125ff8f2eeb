"""What the ladder can turn on a command: start it again, wake it, pause it, hand settings down, give up.

Each setting acts at a start, so turning one starts the command again; it stays until the supervisor ends.
"""

from __future__ import annotations

import signal
from collections.abc import Callable

from premortem.core.action import Override, OverrideStack, Owner, Setting
from premortem.core.errors import StageError
from premortem.stages.process.running import Running, signature_of

NOTHING = "nothing"


class Asked:
    """A one-shot request: done once, read back by evidence found at the time of reading."""

    def __init__(self, carry_out: Callable[[str], None], shows: Callable[[], bool]) -> None:
        self._carry_out, self._shows = carry_out, shows
        self._asked = NOTHING

    def turn(self, owner: Owner, override: Override) -> None:
        """Carry it out; raises what it raises."""
        self._asked = NOTHING
        self._carry_out(str(override.by))
        self._asked = str(override.by)

    def undo(self, owner: Owner) -> None:
        """Nothing can be taken back; only what was asked is forgotten."""
        self._asked = NOTHING

    def read(self) -> Setting:
        """The request while its evidence shows, else ``nothing``."""
        return self._asked if self._asked != NOTHING and self._shows() else NOTHING


class Again:
    """Starts the command again, and keeps the caps whatever asks for it.

    One that has ended well meanwhile needs no start: the request counts as met.
    """

    def __init__(self, running: Running) -> None:
        self._running = running
        self._asked_at = -1
        self.control = Asked(self._again, self._was_started)

    def start(self, why: str, levels: dict[str, int]) -> None:
        """Stop what runs, start with these settings.

        Raises:
            StageError: no further start is allowed; what runs then goes on.
        """
        running = self._running
        runs = running.is_running
        if not runs and running.child is not None:
            running.finish()
            if self._has_ended_well():
                return
        refused = running.starts.why_not(signature_of(why) if runs else "")
        # other settings are another try: only the number of all starts holds them back
        if refused and (levels == running.levels or running.starts.restarts >= running.starts.most):
            raise StageError(f"not started again: {refused}")
        if runs:
            running.stop(why)
        if not self._has_ended_well():
            running.start(levels)

    def _has_ended_well(self) -> bool:
        last = self._running.starts.last
        return self._running.child is None and last is not None and last.kind == "well"

    def _again(self, request: str) -> None:
        self._asked_at = self._running.starts.num
        self.start(request.partition(" #")[0], dict(self._running.levels))

    def _was_started(self) -> bool:
        """Whether a newer process was started, and had in its own environment what it was to have."""
        running = self._running
        is_new = running.starts.num > self._asked_at and running.shown == running.levels
        return is_new or self._has_ended_well()


class Level:
    """A setting that a start hands down: ``choose`` a level, 0 is as the user started it."""

    def __init__(self, kind: str, running: Running, again: Again) -> None:
        self._kind, self._running, self._again = kind, running, again
        self._stack = OverrideStack(float(running.levels.get(kind, 0)))

    def turn(self, owner: Owner, override: Override) -> None:
        """Start again at this level; raises ``StageError`` where no further start is allowed."""
        level = int(float(self._stack.put(owner, override)))
        try:
            self._again.start(f"to hand down {self._kind}", {**self._running.levels, self._kind: level})
        except Exception:
            self._stack.remove(owner)
            raise

    def undo(self, owner: Owner) -> None:
        """For the next start; what runs keeps what it was started with."""
        self._stack.remove(owner)

    def read(self) -> Setting:
        """The level that the newest process was seen to have; -1 where its environment did not show it."""
        running = self._running
        if running.starts.num and running.shown != running.levels:
            return -1.0
        return float(running.levels.get(self._kind, 0))


class Paused:
    """1 while every process of the command is stopped by the supervisor."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._stack = OverrideStack(0.0)

    def turn(self, owner: Owner, override: Override) -> None:
        """Pause it, or let it go on."""
        self._set(self._stack.put(owner, override))

    def undo(self, owner: Owner) -> None:
        """Let it go on, where nobody else pauses it."""
        self._set(self._stack.remove(owner))

    def read(self) -> Setting:
        """From the state of its processes."""
        child = self._running.child
        return 1.0 if child is not None and child.tree.look().is_stopped else 0.0

    def _set(self, value: Setting) -> None:
        child = self._running.child
        if child is None:
            raise StageError("nothing runs that could be paused")
        pauses = value == 1.0
        self._running.is_paused = pauses
        child.send_all(signal.SIGSTOP if pauses else signal.SIGCONT)


def wake(running: Running) -> Asked:
    """Lets a stopped command go on."""

    def go_on(request: str) -> None:
        if running.child is None:
            raise StageError("nothing runs that could be woken")
        running.child.send_all(signal.SIGCONT)

    def goes_on() -> bool:
        return running.child is not None and not running.child.tree.look().is_stopped

    return Asked(go_on, goes_on)
