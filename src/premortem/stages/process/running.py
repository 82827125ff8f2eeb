"""The command as it runs now: started, looked at, stopped, and what is known of its end."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from premortem.core.errors import StageError
from premortem.machine.cgroup import cgroup_of
from premortem.machine.ending import Witnesses, ending
from premortem.machine.memory import available
from premortem.stages.process.child import Child, Start
from premortem.stages.process.group import LimitedGroup
from premortem.stages.process.growth import Growth
from premortem.stages.process.handing import Handing, Levels
from premortem.stages.process.keeper import state
from premortem.stages.process.starts import Ended, Starts, kind_of
from premortem.stages.process.terminal import Streams
from premortem.stages.process.tree import Look, environment_of

_TAIL = 60
_BUSY = 0.01
"""Share of one processor above which a command works; below it only waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What stays the same over all starts. ``stdout`` and ``stderr`` are where its output goes, ``folder`` is where it
    works (``None``: here).
    """

    command: tuple[str, ...]
    grace_s: float
    limit: int | None
    group: LimitedGroup | None
    heartbeat_file: Path | None = None
    folder: Path | None = None
    stdout: int = 1
    stderr: int = 2


@dataclass(slots=True)
class Pulse:
    """When the command last did anything, in ``time.monotonic`` seconds."""

    at: float
    cpu_s: float = 0.0
    looked: float = 0.0
    stopped_since: float | None = None


class Running:
    """One command over all of its starts. Calls come from one thread at a time, :meth:`pass_on` from any."""

    def __init__(self, setup: Setup, starts: Starts, handing: Handing) -> None:
        self.setup, self.starts, self.handing = setup, starts, handing
        self.levels: dict[str, int] = {}
        self.shown: dict[str, int] = {}
        """The levels that the newest start was seen to have, in its own environment and files."""
        self.growth = Growth()
        self.child: Child | None = None
        self.asked_to_end = 0
        """The number of the signal by which the user asked for the end."""
        self.is_paused = False
        self.lost = ""
        """What of the output did not get where it should, in words."""
        self._streams: Streams | None = None
        self._wake = threading.Event()
        self._tail: deque[str] = deque(maxlen=_TAIL)
        self._began = 0.0
        self._kills = 0
        self._own = cgroup_of()
        self._pulse = Pulse(0.0)

    @property
    def is_running(self) -> bool:
        """Whether a start is under way."""
        return self.child is not None and self.child.status is None

    def start(self, levels: Levels) -> None:
        """Start the command with these settings, after the backoff.

        Raises:
            ConfigError: the command cannot be started at all.
            StageError: the user asked for the end, or the command is not there any more.
        """
        self._wake.wait(self.starts.backoff_s)
        if self.asked_to_end:
            raise StageError("the end was asked for: nothing is started any more")
        environment = self.handing.put(levels)
        self._tail.clear()
        self.growth.forget()
        self._streams = streams = Streams(self._hear, stdout=self.setup.stdout, stderr=self.setup.stderr)
        group = self.setup.group
        try:
            self.child = Child(Start(
                command=self.setup.command, environment=environment, grace_s=self.setup.grace_s,
                streams=streams.handed, has_terminal=streams.has_terminal,
                folder=self.setup.folder, group=None if group is None else group.procs,
            ))  # fmt: skip
        except BaseException:
            streams.close()
            raise
        streams.let_go()
        self.starts.begin(levels)
        self._began, self._kills, self.is_paused = time.monotonic(), self.num_kills or 0, False
        self._pulse = Pulse(self._began)
        self.levels = dict(levels)
        self.shown = dict(levels) if self._shows(environment, levels) else {}

    def stop(self, why: str) -> Ended:
        """End the start that runs, in good order; recorded as the supervisor's own doing."""
        assert self.child is not None
        if self.child.status is not None:
            return self.finish()
        self.child.stop()
        return self.finish(stopped=why)

    def finish(self, *, stopped: str = "") -> Ended:
        """Take note of how the start ended; all of its output has been passed on then."""
        child = self.child
        assert child is not None
        code = child.wait()
        lasted = time.monotonic() - self._began
        if self._streams is not None:
            self._streams.close()
            self.lost = self._streams.lost or self.lost
        seen = Witnesses(self._kills, self.num_kills, child.pid, tuple(self._tail))
        if self.num_kills is None:
            seen = Witnesses(pid=child.pid, tail=tuple(self._tail))
        found = ending(code, seen)
        kind = "asked" if self.asked_to_end else kind_of(found)
        if kind not in ("well", "asked") and self._streams is not None and self._streams.is_unheard:
            kind = "unheard"
        if stopped:  # even with code 0: it saved and left, as it was asked to
            found, kind = replace(found, signature=signature_of(stopped)), "stopped"
        child.close()
        self.child = None
        return self.starts.end(child.pid, found, kind, lasted)

    def pass_on(self, number: int) -> None:
        """Hand a signal of the user's on, as the command would have got it without a supervisor."""
        if number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            self.asked_to_end = number
            self._wake.set()
        child = self.child
        if number == signal.SIGWINCH:
            if self._streams is not None:
                self._streams.resize()
        elif number == signal.SIGTSTP:
            self._suspend()
        elif child is not None:
            # a terminal sends these to the whole foreground group, `kill` the others to one process
            is_keyboard = number in (signal.SIGINT, signal.SIGQUIT)
            (child.send_group if is_keyboard else child.send)(number)

    def _suspend(self) -> None:
        """Ctrl-Z: the command first, then the supervisor; both go on by ``fg``."""
        child, streams = self.child, self._streams
        if child is not None:
            child.send_all(signal.SIGSTOP)  # SIGTSTP does nothing in a session that no shell is in
        if streams is not None:
            streams.suspend()
        os.kill(os.getpid(), signal.SIGSTOP)
        if streams is not None:
            streams.resume()
        if child is not None:
            child.send_all(signal.SIGCONT)
        self._pulse.at = time.monotonic()

    def await_end(self, seconds: float) -> None:
        """Wait so long, or until the command ends."""
        child = self.child
        if child is None:
            self._wake.wait(seconds)
        else:
            select.select([child], [], [], seconds)

    def close(self) -> None:
        """Nothing of the command stays; the user's files are as they were."""
        if self.child is not None:
            self.child.close()
            self.child = None
        if self._streams is not None:
            self._streams.close()
        self.handing.take_back()

    # --- looking -----------------------------------------------------------------------------

    @property
    def num_kills(self) -> int | None:
        """What the kernel has killed for memory in the command's group; ``None`` where nothing counts it."""
        group = self.setup.group.group if self.setup.group is not None else self._own
        return None if group is None else group.oom_kills

    def look(self) -> Look:
        """The tree now, with its memory by the group's own account where there is one."""
        child, group = self.child, self.setup.group
        found = Look(0, 0, 0.0, 0) if child is None else child.tree.look()
        if group is not None and found.num:
            found = replace(found, memory=group.group.working_set or found.memory)
        return found

    def limit_for(self, in_use: int) -> int | None:
        """Bytes that the tree may use: its own limit, what its groups leave it, what the machine has left for it."""
        free = [self.setup.limit]
        tightest = None if self._own is None or self.setup.group is not None else self._own.tightest
        if tightest is not None:
            allowed, group = tightest
            free.append(in_use + max(0, allowed - (group.working_set or 0)))
        left = available()
        if left is not None:
            free.append(in_use + left)
        return min((size for size in free if size is not None), default=None)

    def beat(self, look: Look) -> tuple[float, float]:
        """Seconds of silence, and seconds in a stop that is not the supervisor's."""
        now, pulse = time.monotonic(), self._pulse
        # the command itself in a stop does nothing, whatever the processes that it started still do
        held = look.is_stopped or (self.child is not None and state(self.child.pid) in ("T", "t"))
        if held and not self.is_paused:
            pulse.stopped_since = pulse.stopped_since or now
            pulse.at = now
            return 0.0, now - pulse.stopped_since
        pulse.stopped_since = None
        if self.setup.heartbeat_file is not None:
            return self._age(self.setup.heartbeat_file, now), 0.0
        worked = look.cpu_s - pulse.cpu_s
        streams = self._streams
        held_up = streams is not None and streams.is_held_up
        if worked > _BUSY * (now - pulse.looked) or worked < 0.0 or held_up or self.is_paused:
            pulse.at = now
        if streams is not None:
            pulse.at = max(pulse.at, streams.last)
        pulse.cpu_s, pulse.looked = look.cpu_s, now
        return now - pulse.at, 0.0

    def _age(self, file: Path, now: float) -> float:
        since = now - self._began
        try:
            return max(0.0, min(since, time.time() - file.stat().st_mtime))
        except OSError:
            return since

    def _hear(self, line: str) -> None:
        self._tail.append(line)
        self.starts.progress.hear(line)

    def _shows(self, environment: Mapping[str, str], levels: Levels) -> bool:
        """Whether the process that runs has what was asked for, by its own account."""
        assert self.child is not None
        found = environment_of(self.child.pid)
        asked = environment.items() - self.handing.environment({}).items()
        return found is not None and asked <= found.items() and self.handing.is_put(levels)


def signature_of(stopped: str) -> str:
    """The signature of an end that the supervisor brought about."""
    return f"stopped by the supervisor | {stopped}"
