"""The eight symmetries of the square: what turns one maze into another of the same difficulty."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int64]


@cache
def cell_symmetries(size: int) -> Tokens:
    """Every cell order of the group: (8, size²); the first is the identity."""
    square = np.arange(size * size).reshape(size, size)
    turned = [np.rot90(side, turns) for side in (square, square.T) for turns in range(4)]
    return np.stack([order.reshape(-1) for order in turned])


def variants(tokens: bytes) -> list[bytes]:
    """The eight mazes that are symmetric to this one, itself first; fewer are different where it is symmetric."""
    size = round(len(tokens) ** 0.5)
    return [row.tobytes() for row in np.frombuffer(tokens, np.uint8)[cell_symmetries(size)]]


def canonical_form(tokens: bytes) -> bytes:
    """The smallest variant: equal for two squares of tokens just when a symmetry turns one into the other."""
    return min(variants(tokens))
