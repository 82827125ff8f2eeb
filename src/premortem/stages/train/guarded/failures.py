"""What an exception out of a forward or backward pass says about the machine: out of memory, device lost, or neither.

Messages were read in torch 2.13 and its allocators; glibc, cuBLAS, cuDNN, cuFFT and NCCL say their own. A failure that
somebody wrapped (``raise … from error``) is still the same failure.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch.utils.checkpoint import CheckpointError

Kind = Literal["out of memory", "device lost", "not the same again"]
"""The last: a block whose activations are computed again gave others than the first time."""

_MEMORY = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|not enough memory|std::bad_alloc"
    r"|(cublas|cudnn|cufft|cusparse|cusolver)\w*alloc_failed|cuda_error_out_of_memory|hiperroroutofmemory",
    re.IGNORECASE,
)
_LOST = re.compile(
    r"unspecified launch failure|illegal memory access|misaligned address|illegal instruction|uncorrectable ecc"
    r"|\becc error|device-side assert|device is (busy|unavailable)|devices are busy|no cuda-capable device"
    r"|fallen off the bus|driver shutting down|context is destroyed|hardware stack error|launch timed out",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Failure:
    """What failed, of which kind, in the exception's own words (its first line)."""

    kind: Kind
    what: str


def classify(error: BaseException) -> Failure | None:
    """The kind of failure that an exception tells of; ``None`` for anything that is not the machine's.

    >>> classify(RuntimeError("CUDA error: out of memory")).kind
    'out of memory'
    >>> classify(ValueError("expected a batch")) is None
    True
    """
    for link in _chain(error):
        kind = _kind(link)
        if kind is not None:
            first = str(link).strip().partition("\n")[0]
            return Failure(kind, f"{type(link).__name__}: {first}"[:300])
    return None


def _kind(error: BaseException) -> Kind | None:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return "out of memory"
    if isinstance(error, OSError):
        return "out of memory" if error.errno == errno.ENOMEM else None
    if not isinstance(error, RuntimeError):
        return None
    if isinstance(error, CheckpointError):
        return "not the same again"
    text = str(error)
    if _MEMORY.search(text):
        return "out of memory"  # asked first: torch raises AcceleratorError for "CUDA error: out of memory", too
    if isinstance(error, torch.AcceleratorError) or _LOST.search(text):
        return "device lost"
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__
