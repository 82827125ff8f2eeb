"""What the service and its worker say to each other: msgpack structs in frames that begin with their length."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import msgspec

from premortem.core.errors import StageError

_LENGTH = struct.Struct("<I")
_MOST = 1 << 24
"""Bytes of one frame at most; a length beyond it is no frame of ours."""


class Spec(msgspec.Struct, frozen=True):
    """What a worker is started with: bundles, slots of a batch, linger in seconds, threads, which start it is."""

    bundles: list[str]
    slots: int
    linger_s: float
    threads: int
    load: int


class Puzzle(msgspec.Struct, frozen=True, array_like=True):
    """One puzzle to think about, for ``segments`` at most."""

    number: int
    task: str
    tokens: bytes
    segments: int


class Ask(msgspec.Struct, frozen=True, tag="ask"):
    """Puzzles to answer, in any order."""

    puzzles: list[Puzzle]


class Forget(msgspec.Struct, frozen=True, tag="forget"):
    """Hand freed memory back to the system."""


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Answer what you have, then end."""


class Thought(msgspec.Struct, frozen=True, array_like=True):
    """What came of one puzzle; ``batch``: puzzles that shared its last segment."""

    number: int
    tokens: bytes
    segments: int
    halted: bool
    batch: int


class Told(msgspec.Struct, frozen=True, tag="told"):
    """Answers of one segment."""

    thoughts: list[Thought]


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """Puzzles that the model could not compute, and why."""

    numbers: list[int]
    error: str


class Model(msgspec.Struct, frozen=True):
    """A model that is loaded: ``canary`` are its float32 logits on fixed puzzles."""

    task: str
    size: int
    version: str
    max_segments: int
    canary: bytes


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """Warm, and able to answer."""

    pid: int
    models: list[Model]


class Unfit(msgspec.Struct, frozen=True, tag="unfit"):
    """Could not start, and why; ``is_mistake``: the user's."""

    error: str
    is_mistake: bool


Message = Ask | Forget | Stop | Told | Failed | Ready | Unfit
_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Message)


def pack(message: Message) -> bytes:
    """One frame."""
    body = _ENCODER.encode(message)
    return _LENGTH.pack(len(body)) + body


class Frames:
    """Takes bytes as they come and gives the messages that are whole."""

    def __init__(self) -> None:
        self._held = bytearray()

    def take(self, data: bytes) -> Iterator[Message]:
        """Messages completed by ``data``; raises StageError for bytes that are no frame."""
        self._held += data
        while len(self._held) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._held)
            if length > _MOST:
                raise StageError(f"a frame of {length} bytes, expected at most {_MOST}: the stream is out of step")
            end = _LENGTH.size + length
            if len(self._held) < end:
                return
            body = bytes(self._held[_LENGTH.size : end])
            del self._held[:end]
            try:
                yield _DECODER.decode(body)
            except msgspec.MsgspecError as error:
                raise StageError(f"a frame that is no message ({error}): the stream is out of step") from error
