"""A cheap checksum of a batch: enough to notice that the data behind a position changed."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

_HASHED_CHUNKS, _CHUNK_BYTES = 16, 4096


def checksum(batch: object) -> int:
    """CRC-32 of a batch: tensors, arrays, numbers, strings, and containers of these.

    Of a large tensor 64 KiB are read, evenly spread, to stay off the hot path; of one outside host memory the
    shape and type only, to spare a synchronisation. Of other objects the type's name counts.
    """
    return _add(batch, 0)


def _add(part: object, crc: int) -> int:
    if isinstance(part, Tensor):
        return _add_tensor(part, crc)
    if isinstance(part, np.ndarray) and part.dtype.kind in "biufc":
        return _add_tensor(torch.from_numpy(np.ascontiguousarray(part)), crc)
    if isinstance(part, Mapping):
        part = [piece for item in part.items() for piece in item]
    if isinstance(part, list | tuple):
        crc = zlib.crc32(b"%d" % len(part), crc)
        for piece in part:
            crc = _add(piece, crc)
        return crc
    is_plain = isinstance(part, int | float | complex | str | bytes | None)
    return zlib.crc32(repr(part).encode() if is_plain else type(part).__name__.encode(), crc)


def _add_tensor(tensor: Tensor, crc: int) -> int:
    crc = zlib.crc32(f"{tensor.dtype}{tuple(tensor.shape)}".encode(), crc)
    if tensor.device.type != "cpu" or tensor.layout is not torch.strided:
        return crc
    octets = tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data
    if len(octets) <= _HASHED_CHUNKS * _CHUNK_BYTES:
        return zlib.crc32(octets, crc)
    last_start = len(octets) - _CHUNK_BYTES
    for chunk in range(_HASHED_CHUNKS):
        start = last_start * chunk // (_HASHED_CHUNKS - 1)
        crc = zlib.crc32(octets[start : start + _CHUNK_BYTES], crc)
    return crc
