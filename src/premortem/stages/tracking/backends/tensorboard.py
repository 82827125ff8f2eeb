"""TensorBoard: one event file a spool, one event a record. The file itself says how far it is.

Each event carries its sequence number as the name of its writer, so a tail that a kill tore is cut off, and what
stands before it is counted and not written again.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter, masked_crc32c

from premortem.stages.tracking.backends import Unreachable
from premortem.stages.tracking.folder import RunInfo
from premortem.stages.tracking.record import Logged

_WRITER = "premortem:"


class TensorBoard:
    """Writes ``LOGDIR/PROJECT/RUN/events.out.tfevents.*``."""

    def __init__(self, logdir: Path) -> None:
        self._logdir = logdir
        self._path = logdir
        self._sent = 0
        self._offset = 0
        self._fd: int | None = None

    def open(self, run: RunInfo, saved: Mapping[str, str | int]) -> int:
        """Find the file's last whole event and cut off what is torn behind it."""
        folder = self._logdir / run.project / run.name
        self._path = folder / f"events.out.tfevents.{int(run.began):010d}.premortem.{run.id}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.close()
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._sent, self._offset = int(saved.get("sent", 0)), int(saved.get("offset", 0))
            if os.fstat(self._fd).st_size < self._offset:
                self._sent = self._offset = 0  # somebody cut the file below what was sure
            for event, end in events_of(self._fd, self._offset):
                self._offset = end
                if event.source_metadata.writer.startswith(_WRITER):
                    self._sent = int(event.source_metadata.writer.removeprefix(_WRITER))
            os.ftruncate(self._fd, self._offset)
            if self._offset == 0:
                self._append([Event(wall_time=run.began, file_version="brain.Event:2")])
        except OSError as error:
            raise Unreachable(f"tensorboard: {error}") from None
        return self._sent

    def send(self, records: Sequence[Logged], *, doubtful: bool) -> None:
        """Write and flush to the disk."""
        new = [record for record in records if record.n > self._sent]
        try:
            self._append([_event(record) for record in new])
        except OSError as error:
            raise Unreachable(f"tensorboard: {error}") from None
        if new:
            self._sent = new[-1].n

    def confirmed(self) -> int:
        """Nothing is open: a send that returned is on the disk."""
        return self._sent

    def saved(self) -> dict[str, str | int]:
        """The file, and how far it is known to be whole."""
        return {"run": str(self._path), "sent": self._sent, "offset": self._offset}

    def finish(self, how: str) -> None:
        """Event files have no end."""

    def close(self) -> None:
        """Let go of the file."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _append(self, events: list[Event]) -> None:
        assert self._fd is not None
        buffer = _Buffer()
        writer = RecordWriter(buffer)
        for event in events:
            writer.write(event.SerializeToString())
        content = bytes(buffer.content)
        done = 0
        while done < len(content):
            done += os.pwrite(self._fd, content[done:], self._offset + done)
        os.fdatasync(self._fd)
        self._offset += len(content)


class _Buffer:
    """What tensorboard's own writer of records writes to."""

    def __init__(self) -> None:
        self.content = bytearray()

    def write(self, data: bytes) -> None:
        self.content += data

    def flush(self) -> None:
        """Nothing waits."""


def events_of(fd: int, offset: int = 0) -> Iterator[tuple[Event, int]]:
    """Whole events from an offset on with the offset after each, up to the first that is torn."""
    while len(head := os.pread(fd, 12, offset)) == 12:
        length, crc = struct.unpack("<QI", head)
        if masked_crc32c(head[:8]) != crc or length > 1 << 30:
            return
        body = os.pread(fd, length + 4, offset + 12)
        if len(body) < length + 4 or struct.unpack("<I", body[length:])[0] != masked_crc32c(body[:length]):
            return
        offset += 16 + length
        yield Event.FromString(body[:length]), offset


def _event(record: Logged) -> Event:
    values = [Summary.Value(tag=name, simple_value=value) for name, value in record.values.items()]
    event = Event(wall_time=record.t, step=max(0, record.step), summary=Summary(value=values))
    event.source_metadata.writer = f"{_WRITER}{record.n}"
    return event


def make(where: str, offline: Path | None, home: Path) -> TensorBoard:
    """``where`` is the log folder; it is on a disk of one's own, so there is no other offline mode."""
    return TensorBoard(Path(where))
