"""A command as the kernel sees it: what is measured at each look, and what can be turned."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from math import isfinite
from pathlib import Path

from premortem.core.action import Control
from premortem.core.signal import Signal
from premortem.stages.process.controls import Again, Asked, Level, Paused, wake
from premortem.stages.process.handing import KINDS
from premortem.stages.process.running import Running, signature_of

STOPPED_FOR_MEMORY = "started again before the limit"
"""What the risk of leaking memory asks of the control ``process``."""
_NEAR_LIMIT = signature_of(STOPPED_FOR_MEMORY)
NONE_IN_SIGHT = 1e6
"""Seconds to the limit where memory does not grow."""
GIB = float(1 << 30)

SIGNALS = (
    Signal("memory_share", "of the limit", help="memory of the tree over the tightest limit that holds for it"),
    Signal("seconds_to_limit", "s", higher_is_worse=False, help="until memory reaches the limit at a steady pace"),
    Signal("silence", "s", help="no output and no processor time, or the age of the heartbeat file"),
    Signal("stopped", "s", help="every process is stopped (SIGSTOP), and not by the supervisor"),
    Signal("free_space", "GiB", higher_is_worse=False, help="on the file system that is watched"),
    Signal("crashed", "flag", help="it ended badly and was not started again"),
    Signal("out_of_memory", "flag", help="it ended for memory of the host"),
    Signal("out_of_device_memory", "flag", help="it ended for memory of a device"),
    Signal("device_lost", "flag", help="it ended as a device failed"),
    Signal("unreachable", "flag", help="it ended as a service did not answer"),
    Signal("same_ending", "in a row", help="equal crashes without progress; 0 while it runs"),
    Signal("no_headway", "flag", help="memory ended it, or nearly, and it got no further than the start before"),
    Signal("tried_enough", "flag", help="it ended for a service or device, as it did in as many starts before"),
    Signal("no_restart_left", "flag", help="it ended badly and no restart is left"),
)
_FLAG = {"memory": "out_of_memory", "device-memory": "out_of_device_memory", "device": "device_lost",
         "network": "unreachable"}  # fmt: skip


class ProcessWorkload:
    """The seam between the kernel and one :class:`Running` command. A tick is one look."""

    kind = "process"
    signals = SIGNALS

    def __init__(self, running: Running, disk: Path) -> None:
        self._running, self._disk = running, disk
        self.stop_reason = ""
        again = Again(running)
        self.controls: Mapping[str, Control] = {
            "process": again.control,
            "stopped": wake(running),
            "paused": Paused(running),
            "run": Asked(self._give_up, lambda: bool(self.stop_reason)),
            **{kind.replace("-", "_"): Level(kind, running, again) for kind in KINDS},
        }
        self.witnesses: Mapping[str, str] = {}
        self.conditions: Mapping[str, Callable[[], bool | None]] = {"the command runs": self._runs}

    def look(self, seconds: float) -> list[float | None]:
        """One row of measurements at this moment."""
        row: dict[str, float | None] = {signal.name: 0.0 for signal in self.signals}
        row["seconds_to_limit"] = NONE_IN_SIGHT
        row["free_space"] = self._free()
        if self._running.is_running:
            self._measure(row, seconds)
        elif self._has_failed():
            self._mark_ending(row)
        return [row[signal.name] for signal in self.signals]

    def _measure(self, row: dict[str, float | None], seconds: float) -> None:
        running = self._running
        look = running.look()
        limit = running.limit_for(look.memory)
        running.growth.take(seconds, look.memory)
        row["memory_share"] = None if limit is None else look.memory / limit
        left = running.growth.seconds_to(limit)
        row["seconds_to_limit"] = left if isfinite(left) else NONE_IN_SIGHT
        row["silence"], row["stopped"] = running.beat(look)
        last, starts = running.starts.last, running.starts
        if last is not None and last.signature == _NEAR_LIMIT and last.same > 1 and dict(running.levels) == last.levels:
            row["no_headway"] = 0.0 if starts.progress.so_far else 1.0

    def _mark_ending(self, row: dict[str, float | None]) -> None:
        starts = self._running.starts
        last = starts.last
        assert last is not None
        row[_FLAG.get(last.kind, "crashed")] = 1.0
        if last.kind in ("memory", "device-memory"):
            row["no_headway"] = 0.0 if last.progress else 1.0
        elif last.kind == "crash":  # for the others the ladder has something else to try
            row["same_ending"] = float(last.same)
        elif last.kind in ("network", "device"):
            row["tried_enough"] = 1.0 if last.same >= starts.same_at_most else 0.0
        row["no_restart_left"] = 1.0 if starts.restarts >= starts.most else 0.0

    def _has_failed(self) -> bool:
        last = self._running.starts.last
        return self._running.child is None and last is not None and last.kind not in ("well", "asked", "unheard")

    def _free(self) -> float | None:
        try:
            return shutil.disk_usage(self._disk).free / GIB
        except OSError:
            return None

    def _give_up(self, request: str) -> None:
        self.stop_reason = request.partition(" #")[0]

    def _runs(self) -> bool:
        last = self._running.starts.last
        return self._running.is_running or (self._running.child is None and last is not None and last.kind == "well")
