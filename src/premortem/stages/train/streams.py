"""The random streams of a training process, captured and restored bit for bit.

Plain values only (tensors, numbers, tuples), so a checkpoint loads them with ``weights_only=True``.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import torch
from numpy.random import mtrand
from torch import Tensor

from premortem.core.errors import ConfigError


class Streams(TypedDict):
    """``generators``: torch generators of one's own; ``accelerators``: empty where CUDA was not in use."""

    torch: Tensor
    accelerators: list[Tensor]
    generators: list[Tensor]
    python: tuple[int, tuple[int, ...], float | None]
    numpy: tuple[str, Tensor, int, int, float]


def capture(generators: Sequence[torch.Generator] = (), *, with_accelerators: bool = False) -> Streams:
    """The global streams of torch, Python and numpy, and those of ``generators``; about 50 microseconds.

    Raises ``ConfigError`` when numpy's global stream is not its default, MT19937.
    """
    bits = mtrand.get_bit_generator()
    numpy_state = np.random.get_state() if isinstance(bits, np.random.MT19937) else None
    if not isinstance(numpy_state, tuple):
        raise ConfigError(
            f"numpy's global stream is {type(bits).__name__}: expected MT19937, its default; "
            "give your own bit generator to numpy.random.Generator instead of set_bit_generator"
        )
    name, key, position, has_gauss, cached_gauss = numpy_state
    version, words, gauss = random.getstate()
    with_accelerators = with_accelerators and torch.cuda.is_initialized()
    return Streams(
        torch=torch.get_rng_state(),
        accelerators=torch.cuda.get_rng_state_all() if with_accelerators else [],
        generators=[generator.get_state() for generator in generators],
        python=(version, words, gauss),
        numpy=(name, torch.from_numpy(key.astype(np.int64)), position, has_gauss, cached_gauss),
    )


def restore(streams: Streams, generators: Sequence[torch.Generator] = ()) -> None:
    """Put every stream back, accelerator streams only where the number of devices is the same."""
    torch.set_rng_state(streams["torch"])
    if streams["accelerators"] and torch.cuda.device_count() == len(streams["accelerators"]):
        torch.cuda.set_rng_state_all(streams["accelerators"])
    for generator, state in zip(generators, streams["generators"], strict=True):
        generator.set_state(state)
    version, words, gauss = streams["python"]
    random.setstate((version, tuple(words), gauss))
    name, key, position, has_gauss, cached_gauss = streams["numpy"]
    np.random.set_state((name, key.numpy().astype(np.uint32), position, has_gauss, cached_gauss))


def drawn_between(before: Streams, after: Streams) -> set[str]:
    """Names of the host streams that differ: something drew from them."""
    pairs: dict[str, tuple[object, object]] = {
        "torch": (before["torch"], after["torch"]),
        "python": (before["python"], after["python"]),
        "numpy": (before["numpy"], after["numpy"]),
        "generators": (before["generators"], after["generators"]),
    }
    return {name for name, (first, second) in pairs.items() if not _is_same(first, second)}


def _is_same(first: object, second: object) -> bool:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.equal(first, second)
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(_is_same, first, second))
    return first == second
