"""The reading side of a spool: whole records from an offset on, whatever a crash did to the rest."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from premortem.stages.tracking.record import Logged, from_line

_CHUNK = 1 << 18


@dataclass(frozen=True, slots=True)
class Placed:
    """A record and the byte after it: where a reader that has done with it goes on."""

    record: Logged
    end: int


class Reader:
    """Reads one spool file, again and again while it grows.

    Attributes:
        offset: the byte from which it reads on.
        last: sequence numbers up to this one are passed over.
        num_damaged: lines with a newline that were no record.
    """

    def __init__(self, path: Path, offset: int = 0, last: int = 0) -> None:
        self.path = path
        self.offset = offset
        self.last = last
        self.num_damaged = 0

    def read(self, most: int) -> list[Placed]:
        """At most ``most`` further records, oldest first; empty when there is none yet. Raises ``OSError``."""
        found: list[Placed] = []
        with self.path.open("rb") as stream:
            if os.fstat(stream.fileno()).st_size < self.offset:
                self.offset = 0  # the file was cut below what was read: by its numbers nothing is taken twice
            for line, end in _lines(stream.fileno(), self.offset):
                whole = line.endswith(b"\n")
                record = from_line(line.rstrip(b"\n"))
                if record is None and not whole:
                    break  # its writer may be in the middle of it
                self.offset = end
                if record is None:
                    self.num_damaged += line.strip() != b""
                elif record.n > self.last:
                    self.last = record.n
                    found.append(Placed(record, end))
                    if len(found) >= most:
                        break
            if found:  # what a tracker has must never be missing here after a power loss: its number would come again
                os.fdatasync(stream.fileno())
        return found


def last_number(path: Path) -> tuple[int, int]:
    """The highest sequence number of whole records, and how many lines were damaged. Raises ``OSError``."""
    reader = Reader(path)
    while reader.read(10_000):
        pass
    return reader.last, reader.num_damaged


def _lines(fd: int, offset: int) -> Iterator[tuple[bytes, int]]:
    """Each line with its newline, and the offset after it; the last one perhaps without."""
    rest = b""
    while chunk := os.pread(fd, _CHUNK, offset + len(rest)):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            offset += len(line) + 1
            yield line + b"\n", offset
    if rest:
        yield rest, offset + len(rest)
