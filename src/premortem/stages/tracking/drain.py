"""Moves records from a spool into one sink: exactly once, in order, whatever ends it in between.

``sent`` of the cursor is moved only when a send is certain. After a start, and after every send whose answer never
came, as many records as a send can hold are doubtful, and the backend looks before it writes them.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from premortem.stages.tracking import cursor as cursors
from premortem.stages.tracking.backends import MOST, Backend, Invalid
from premortem.stages.tracking.folder import Folder
from premortem.stages.tracking.reader import Placed, Reader
from premortem.stages.tracking.record import Logged, to_line


class Drain:
    """One spool into one backend.

    Attributes:
        cursor: what is surely there.
        end: how the run ended, once its last record was read.
        why_aside: what the tracker said of the last record that it will never take.
    """

    def __init__(self, folder: Folder, sink: str, backend: Backend) -> None:
        self._folder = folder
        self._path = folder.cursor(sink)
        self._rejected = folder.rejected(sink)
        self._backend = backend
        self._run = folder.read_run()
        self.cursor = cursors.load(self._path)
        self.reader = Reader(folder.spool, self.cursor.offset, self.cursor.sent)
        self.end = ""
        self.why_aside = ""
        self._is_open = False
        self._doubtful = 0
        self._ahead: list[Placed] = []
        self._aside: set[int] = set()

    def open(self) -> None:
        """Find the run in the tracker and what is there; raises what :meth:`Backend.open` does."""
        there = self._backend.open(self._run, self.cursor.saved)
        self._doubtful = MOST if there is None else 0
        self.reader = Reader(self._folder.spool, self.cursor.offset, self.cursor.sent)
        self._ahead = []
        self._is_open = True
        if there is not None and there > self.cursor.sent:
            self._pass_over(there)
        elif self.cursor.saved != self._backend.saved():
            self._move(self.cursor.sent, self.cursor.offset)

    def step(self, most: int = MOST) -> int:
        """Send the next records, if there are any; returns how many were handed over.

        Raises:
            Unreachable, Refused, OSError: nothing is lost; call :meth:`step` again.
        """
        if not self._is_open:
            self.open()
        placed = [] if len(self._ahead) > 10 * MOST else self.reader.read(most)
        records = [p.record for p in placed if p.record.v]
        self.end = next((p.record.end for p in reversed(placed) if p.record.end), "" if placed else self.end)
        self._ahead += placed
        try:
            self._send(records)
            self._confirm()
        except Exception:
            self._is_open = False
            raise
        self._doubtful = max(0, self._doubtful - len(records))
        return len(placed)

    def finish(self) -> None:
        """Tell the tracker how the run ended, once; raises what :meth:`step` does."""
        if not self.cursor.finished:
            self._backend.finish(self.end or "died")
            self.cursor = msgspec.structs.replace(self.cursor, finished=True)
            cursors.store(self._path, self.cursor)

    @property
    def is_certain(self) -> bool:
        """Whether all that was read is surely there."""
        return self._is_open and not self._ahead

    def _send(self, records: Sequence[Logged]) -> None:
        """What the tracker will never take is found by halves, put aside and counted; all else goes in."""
        if not records:
            return
        try:
            self._backend.send(records, doubtful=self._doubtful > 0)
        except Invalid as error:
            if len(records) == 1:
                self._put_aside(records[0], str(error))
                return
            self._doubtful = max(self._doubtful, len(records))  # part of it may have gone in
            half = len(records) // 2
            self._send(records[:half])
            self._send(records[half:])

    def _put_aside(self, record: Logged, why: str) -> None:
        with self._rejected.open("ab") as stream:
            stream.write(to_line(record))
        self._aside.add(record.n)
        self.why_aside = why
        self.cursor = msgspec.structs.replace(self.cursor, num_rejected=self.cursor.num_rejected + 1)

    def _confirm(self) -> None:
        sure = self._backend.confirmed()
        done = 0
        for placed in self._ahead:
            # a record without values, or one put aside, follows those before it
            if placed.record.n > sure and placed.record.v and placed.record.n not in self._aside:
                break
            done += 1
        if done:
            last = self._ahead[done - 1]
            self._aside -= {p.record.n for p in self._ahead[:done]}
            del self._ahead[:done]
            self._move(last.record.n, last.end)

    def _pass_over(self, there: int) -> None:
        """The tracker has more than the cursor says: it was ended between a send and its note."""
        while placed := self.reader.read(MOST):
            known = [p for p in placed if p.record.n <= there]
            if known:
                self._move(known[-1].record.n, known[-1].end)
            if len(known) < len(placed):
                break
        self.reader = Reader(self._folder.spool, self.cursor.offset, self.cursor.sent)

    def _move(self, sent: int, offset: int) -> None:
        self.cursor = cursors.Cursor(
            sent, offset, self._backend.saved(), finished=False, num_rejected=self.cursor.num_rejected
        )
        cursors.store(self._path, self.cursor)
