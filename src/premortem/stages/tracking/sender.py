"""The process beside the training: starts a worker for each tracker, watches them, and outlives the run for a while.

It imports no tracker, so it cannot hang in one. A worker that dies is started again with a growing pause; one that
shows no life is killed. When the writer has gone, all that is left gets a bounded time.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from premortem.core.errors import PremortemError
from premortem.stages.tracking.folder import Folder, find
from premortem.stages.tracking.worker import DONE, MISTAKE, REFUSED

_POLL_S = 0.1
_NO_LIFE_S = 300.0
"""Clients have patience of their own, of seconds; reading back a long history takes minutes."""
_MOST_PAUSE_S = 30.0


@dataclass(slots=True)
class Job:
    """One sink of one spool, and the process that works on it."""

    folder: Folder
    sink: str
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    pause_s: float = 0.5
    not_before: float = 0.0
    code: int | None = None

    @property
    def is_settled(self) -> bool:
        """Whether a further try would change nothing."""
        return self.code in (DONE, MISTAKE, REFUSED)

    def tend(self, now: float) -> None:
        """Start it, or see how it ended, or kill it when it shows no life."""
        if self.is_settled:
            return
        if self.process is None:
            if now >= self.not_before:
                self._start(now)
            return
        code = self.process.poll()
        if code is not None:
            self.process, self.code = None, code
            self.not_before = now + self.pause_s
            self.pause_s = min(_MOST_PAUSE_S, 2 * self.pause_s)
        elif now - max(self.started, self._last_life(now)) > _NO_LIFE_S:
            self.process.kill()

    def stop(self) -> None:
        """Kill it: it can be ended at any moment."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _start(self, now: float) -> None:
        command = [sys.executable, "-m", "premortem.stages.tracking.worker", str(self.folder.path), self.sink]
        with self.folder.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.started, self.code = now, None

    def _last_life(self, now: float) -> float:
        """When the worker last said something, in the monotonic seconds of ``now``."""
        return now - max(0.0, time.time() - self.folder.status(self.sink).wall)


@dataclass(slots=True)
class Sender:
    """All sinks of one spool in its mode, and what earlier runs beside it left behind.

    ``grace_s``: how long it goes on after the writer has gone.
    """

    folder: Folder
    grace_s: float
    with_leftovers: bool = True
    jobs: list[Job] = field(default_factory=list)
    _mode: str = ""
    _over_since: float | None = None

    def run(self) -> bool:
        """Work until the run is over and all is sent, or the time is up; returns whether all is sent."""
        if self.folder.hold("sender") is None:
            print(f"{self.folder.path}: another sender is at work", file=sys.stderr)
            return False
        try:
            while not self._is_over():
                self._tend()
                time.sleep(_POLL_S)
            return all(job.code == DONE for job in self.jobs)
        finally:
            for job in self.jobs:
                job.stop()

    def _tend(self) -> None:
        mode = self.folder.mode
        if mode != self._mode:
            self._mode = mode
            wanted = self.folder.sinks(mode)
            for job in self.jobs:
                if job.folder == self.folder and job.sink not in wanted:
                    job.stop()
            kept = [job for job in self.jobs if job.folder != self.folder or job.sink in wanted]
            known = {job.sink for job in kept if job.folder == self.folder}
            self.folder.act(mode)
            self.jobs = kept + [Job(self.folder, sink) for sink in wanted if sink not in known]
            if mode == "online" and self.with_leftovers:
                self._take_leftovers()
        now = time.monotonic()
        for job in self.jobs:
            job.tend(now)

    def _take_leftovers(self) -> None:
        """One earlier run that ended with records unsent is sent along with this one."""
        self.with_leftovers = False
        for folder in find(self.folder.path.parent):
            if folder == self.folder or folder.is_held("writer") or folder.is_held("sender"):
                continue
            try:
                sinks = [sink for sink in folder.sinks("online") if not folder.status(sink).done]
            except PremortemError:
                continue
            if sinks and folder.hold("sender") is not None:
                self.jobs += [Job(folder, sink) for sink in sinks]
                return

    def _is_over(self) -> bool:
        if self.folder.is_held("writer"):
            self._over_since = None
            return False
        now = time.monotonic()
        if self._over_since is None:
            self._over_since = now
        if self._mode and all(job.is_settled for job in self.jobs):
            return True
        return now - self._over_since > self.grace_s


def main(arguments: list[str]) -> int:
    """``FOLDER GRACE_SECONDS``."""
    # Ctrl-C in the terminal is the training's; told to end, workers go with us
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    os.nice(5)  # the training comes first
    return 0 if Sender(Folder(Path(arguments[0])), float(arguments[1])).run() else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
