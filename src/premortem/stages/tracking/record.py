"""One logged record and its line in the spool: JSON, a blank, eight hex digits of crc32, a newline.

A line that was cut anywhere fails its crc, so a torn tail is never taken for a record.
"""

from __future__ import annotations

import math
import zlib

import msgspec

from premortem.core.errors import StageError

_CRC = 8


class Logged(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one call of ``log`` kept.

    Attributes:
        n: sequence number in its spool, from 1, never given twice.
        step: the caller's own step; it may go back after a restore.
        t: wall time, Unix seconds.
        v: values by name; what is not finite is kept as ``"nan"``, ``"inf"``, ``"-inf"``.
        end: how the run ended, on the record that says so.
    """

    n: int
    step: int
    t: float
    v: dict[str, float | str]
    end: str = ""

    @property
    def values(self) -> dict[str, float]:
        """Values as numbers."""
        return {name: float(value) for name, value in self.v.items()}

    @property
    def milliseconds(self) -> int:
        """Wall time in whole Unix milliseconds."""
        return int(self.t * 1000)


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Logged).decode


def to_line(record: Logged) -> bytes:
    """The whole line of a record."""
    body = _encode(record)
    if b"null" in body:  # JSON has no NaN: rare, so it is looked for afterwards
        body = _encode(msgspec.structs.replace(record, v={k: _spelt(v) for k, v in record.v.items()}))
    return b"%b %08x\n" % (body, zlib.crc32(body))


def from_line(line: bytes) -> Logged | None:
    """The record of a line without its newline; ``None`` when it is not whole."""
    body = checked(line)
    if body is None:
        return None
    try:
        record = _decode(body)
        _ = record.values
    except (msgspec.DecodeError, ValueError):
        return None
    return record


def sealed(body: bytes) -> bytes:
    """A body with its crc, as files beside the spool are kept."""
    return b"%b %08x\n" % (body, zlib.crc32(body))


def checked(line: bytes) -> bytes | None:
    """The body of a sealed line, or ``None`` when the crc does not fit."""
    if len(line) <= _CRC + 1 or line[-_CRC - 1 : -_CRC] != b" ":
        return None
    body = line[: -_CRC - 1]
    return body if line[-_CRC:] == b"%08x" % zlib.crc32(body) else None


def require_numbers(values: dict[str, object]) -> tuple[dict[str, float | str], list[str]]:
    """Values as numbers, and the names of those that are none (a tensor of one element is one)."""
    kept: dict[str, float | str] = {}
    refused = []
    for name, value in values.items():
        try:
            kept[str(name)] = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError, RuntimeError):
            refused.append(str(name))
    return kept, refused


def damaged(path: object, what: str) -> StageError:
    """The one error for files of a spool that are not as they were written."""
    return StageError(f"{path}: {what}; nothing in it was changed, so a copy of the folder can be asked about")


def _spelt(value: float | str) -> float | str:
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value
