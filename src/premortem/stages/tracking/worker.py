"""The process that talks to one tracker: drains a spool into one sink, with retries, until the run is over.

Started by the sender, which may kill it at any moment; it ends by itself when its sender is gone. Exit codes: 0 all
is there, 4 the tracker refuses us, 2 the user's mistake, 3 another worker is at it still, anything else a fault.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec
import stamina

from premortem.core.errors import ConfigError, StageError
from premortem.stages.tracking.backends import Refused, Unreachable, make
from premortem.stages.tracking.drain import Drain
from premortem.stages.tracking.folder import Folder, Status

T = TypeVar("T")
DONE, MISTAKE, BUSY, REFUSED = 0, 2, 3, 4
_SHORTEST_IDLE_S, _LONGEST_IDLE_S = 0.02, 0.25
_ALIVE_S = 2.0


class Worker:
    """One sink of one spool."""

    def __init__(self, folder: Folder, sink: str) -> None:
        self._folder = folder
        self._sink = sink
        self._parent = os.getppid()
        self._told = Status()
        self.status = Status(pid=os.getpid(), wall=time.time())
        self._say()
        backend = make(sink, folder, folder.read_run().backends[sink.removesuffix("-offline")])
        self._backend = backend
        self._drain = Drain(folder, sink, backend)

    def run(self) -> int:
        """Send until the run is over and everything is there."""
        idle_s = _SHORTEST_IDLE_S
        try:
            while True:
                is_over = not self._folder.is_held("writer")  # asked first: nothing is written after that
                moved = self._insist(self._drain.step)
                self._say()
                if moved == 0:
                    if is_over and self._drain.is_certain:
                        break
                    time.sleep(idle_s)
                idle_s = _SHORTEST_IDLE_S if moved else min(_LONGEST_IDLE_S, 1.5 * idle_s)
            self._insist(self._drain.finish)
            self.status.done = True
            self._say()
        except Refused as error:
            self.status.refused, self.status.fault = True, str(error)
            self._say()
            return REFUSED
        finally:
            self._backend.close()
        return DONE

    def _insist(self, act: Callable[[], T]) -> T:
        """Until it works: only the sender ends this."""
        for attempt in stamina.retry_context(
            on=(Unreachable, OSError), attempts=None, timeout=None, wait_initial=0.2, wait_max=15.0, wait_jitter=0.5
        ):
            with attempt:
                try:
                    result = act()
                except (Unreachable, OSError) as error:
                    self.status.failures += 1
                    self.status.fault = str(error)
                    self._say()
                    raise
        self.status.failures, self.status.fault = 0, self._drain.why_aside
        return result

    def _say(self) -> None:
        """Write the status when it changed, and now and then to show life; end when nobody watches any more."""
        if os.getppid() != self._parent:
            os._exit(BUSY)
        now = time.time()
        if hasattr(self, "_drain"):
            cursor = self._drain.cursor
            self.status.sent, self.status.num_rejected = cursor.sent, cursor.num_rejected
            self.status.run = str(cursor.saved.get("run", ""))
            self.status.num_damaged = self._drain.reader.num_damaged
        self.status.wall = self._told.wall
        if self.status == self._told and now - self._told.wall < _ALIVE_S:
            return
        self.status.wall = now
        self._told = msgspec.structs.replace(self.status)
        try:
            self._folder.write_status(self._sink, self.status)
        except OSError as error:
            print(f"status not written: {error}", file=sys.stderr)


def main(arguments: list[str]) -> int:
    """``FOLDER SINK``."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
    folder, sink = Folder(Path(arguments[0])), arguments[1]
    try:
        if folder.hold(sink) is None:
            return BUSY
        return Worker(folder, sink).run()
    except (ConfigError, StageError) as error:
        print(f"{sink}: {error}", file=sys.stderr)
        folder.write_status(sink, Status(os.getpid(), time.time(), fault=str(error), failures=1))
        return MISTAKE


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # a client's threads and exit handlers must not hold up the end: everything is confirmed
