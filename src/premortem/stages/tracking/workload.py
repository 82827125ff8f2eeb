"""A tracker as a workload: how old the oldest record is that it owes, and where records go."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping

from premortem.core.action import Control, Override, OverrideStack, Owner, Setting
from premortem.core.errors import StageError
from premortem.core.signal import Signal
from premortem.stages.tracking import cursor as cursors
from premortem.stages.tracking.folder import MODES
from premortem.stages.tracking.reader import last_number
from premortem.stages.tracking.tracker import Tracker

SIGNALS = (
    Signal("unsent_age", "s", help="age of the oldest record that has not arrived; or since one did, if that is less"),
    Signal("unsent", "records", help="records that where they are owed have not arrived"),
    Signal("send_failures", help="sends that failed, in a row"),
    Signal("refused", help="1 while the tracker refuses our credentials"),
    Signal("run_missing", "s", help="since the run was asked for and the tracker has given none"),
    Signal("spool_failures", help="records that no disk took, in a row"),
    Signal("sent", "records", higher_is_worse=False, help="records that have arrived"),
)
ONLINE, OFFLINE, LOCAL = 0.0, 1.0, 2.0
"""Settings of the control ``mode``: numbers, so that a rung can be peeled."""
_ACKNOWLEDGE_S = 5.0


class TrackerWorkload:
    """One tracker. ``clock``: Unix seconds, where a drill's time runs faster than the wall's."""

    kind = "tracker"
    signals = SIGNALS

    def __init__(self, tracker: Tracker, clock: Callable[[], float] = time.time) -> None:
        self._tracker = tracker
        self._clock = clock
        self._sinks: list[str] = []
        self._owed_since = clock()
        self._sent = math.inf
        self._arrived = -math.inf
        self._seen: deque[tuple[int, float]] = deque()
        self.controls: Mapping[str, Control] = {"mode": _Mode(tracker), "sync": _SyncLater(tracker)}
        self.witnesses: Mapping[str, str] = {}
        self.conditions: Mapping[str, Callable[[], bool | None]] = {}

    def row(self) -> list[float | None]:
        """One observation; ``None`` for what the folder does not tell at present."""
        tracker, folder = self._tracker, self._tracker.folder
        tracker.ensure_sender()
        now, last = self._clock(), tracker.spool.last
        sinks = folder.sinks(folder.mode)
        if sinks != self._sinks:
            self._sinks, self._owed_since = sinks, now
            self._sent, self._arrived = math.inf, -math.inf
        states = [folder.status(sink) for sink in sinks]
        known = [cursors.load(folder.cursor(sink)) for sink in sinks]
        sent = min((cursor.sent for cursor in known), default=last)
        missing = [cursor for cursor in known if not cursor.saved.get("run")]
        refused = any(folder.status(name).refused for name in tracker.run.backends)
        return [
            self._age(last, sent, now),
            float(max(0, last - sent)),
            float(max((state.failures for state in states), default=0)),
            float(refused),
            now - self._owed_since if missing else 0.0,
            float(tracker.spool.failures),
            float(sent),
        ]

    def _age(self, last: int, sent: int, now: float) -> float:
        """By when each number was first seen here, so that a dead sender cannot make it look young.

        While a backlog is worked off, the time since the last arrival counts: that is a tracker which is there. After
        a change of mode only an arrival at the new place does.
        """
        if sent > self._sent:
            self._arrived = now
        self._sent = sent
        if not self._seen or last > self._seen[-1][0]:
            self._seen.append((last, now))
        while len(self._seen) > 1 and self._seen[0][0] <= sent:
            self._seen.popleft()
        oldest, since = self._seen[0]
        return 0.0 if oldest <= sent else now - max(since, self._arrived)


class _Mode:
    """Where records go: ``ONLINE``, ``OFFLINE`` or ``LOCAL``; what is read is what the sender does."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._stack = OverrideStack(float(MODES.index(tracker.folder.mode)))

    def turn(self, owner: Owner, override: Override) -> None:
        """Choose; raises ``OSError``."""
        self._choose(self._stack.put(owner, override))

    def undo(self, owner: Owner) -> None:
        """Back to what the others want."""
        self._choose(self._stack.remove(owner))

    def read(self) -> Setting:
        """The mode that the sender is in; it is given a moment to follow."""
        folder = self._tracker.folder
        until = time.monotonic() + _ACKNOWLEDGE_S
        while folder.acting != folder.mode and time.monotonic() < until:
            time.sleep(0.02)
        acting = folder.acting
        if acting is None:
            raise StageError(f"{folder.path}: no sender has said what it does")
        return float(MODES.index(acting))

    def _choose(self, setting: Setting) -> None:
        number = int(float(setting))
        if not 0 <= number < len(MODES):
            raise StageError(f"mode: found {setting}, expected 0 (online), 1 (offline) or 2 (local)")
        self._tracker.choose(MODES[number])


class _SyncLater:
    """A request: leave all to ``premortem sync``. Its evidence is a spool that reads whole to its last record."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._asked = ""

    def turn(self, owner: Owner, override: Override) -> None:
        """Write what waits in memory to the disk; the folder is due from now on."""
        self._tracker.spool.flush()
        self._asked = str(override.by)

    def undo(self, owner: Owner) -> None:
        """Nothing stands."""
        self._asked = ""

    def read(self) -> Setting:
        """The request, while every record given stands in the file."""
        spool = self._tracker.spool
        wanted = spool.last
        last, _ = last_number(self._tracker.folder.spool)
        return self._asked if self._asked and last >= wanted and not spool.num_waiting else "nothing"
