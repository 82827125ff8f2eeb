"""A batch in pieces along its samples: tensors, arrays and lists in any nesting of tuples, dicts and data classes.

The sample dimension is the first one. What every sample shares (numbers, texts, ``None``, tensors without a
dimension) goes into each piece as it is. A tensor that has another first dimension makes the batch unsplittable:
guessing would change the gradient in silence.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence


class CannotSplit(Exception):  # noqa: N818 - an answer, not a failure
    """Why a batch cannot be taken in pieces, in words."""


def num_samples(batch: Any) -> int:
    """How many samples a batch has: the first dimension, which all of its tensors share.

    Raises:
        CannotSplit: where there is no tensor, or their first dimensions differ.

    >>> import torch
    >>> num_samples({"x": torch.zeros(8, 3), "scale": 0.5})
    8
    """
    sizes = {int(leaf.shape[0]) for leaf in _leaves(batch)}
    if not sizes:
        raise CannotSplit(f"a batch of type {type(batch).__name__} holds no tensor with samples")
    if len(sizes) > 1:
        found = " and ".join(str(size) for size in sorted(sizes))
        raise CannotSplit(f"the batch's tensors have first dimensions {found}: which one counts samples is unknown")
    return sizes.pop()


def num_elements(batch: Any) -> int:
    """All numbers in the tensors that have samples: how large the batch is, long sequences counted as long."""
    return sum(math.prod(leaf.shape) for leaf in _leaves(batch))


def split(batch: Any, sizes: Sequence[int]) -> Iterator[Any]:
    """Pieces of so many samples, in order, as views; of the batch's own type, made one at a time.

    Raises:
        CannotSplit: as :func:`num_samples`.
    """
    count = num_samples(batch)
    if sum(sizes) != count or min(sizes) < 1:
        raise ValueError(f"found pieces of {list(sizes)} samples for a batch of {count}")
    start = 0
    for size in sizes:
        yield _piece(batch, start, start + size, count)
        start += size


def evenly(count: int, at_most: int, at_least: int = 1) -> list[int]:
    """The fewest pieces of at most so many samples, as equal as can be; ``at_least`` goes before ``at_most``.

    >>> evenly(10, 4)
    [4, 3, 3]
    """
    pieces = min(-(-count // max(1, at_most)), max(1, count // at_least))
    small, larger = divmod(count, pieces)
    return [small + 1] * larger + [small] * (pieces - larger)


def _leaves(value: Any) -> Iterator[Any]:
    """Everything that has samples in its first dimension."""
    if _is_leaf(value):
        if value.ndim:
            yield value
    elif isinstance(value, PackedSequence):
        raise CannotSplit("a PackedSequence interleaves its samples")
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _leaves(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _leaves(inner)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _leaves(getattr(value, field.name))


def _piece(value: Any, start: int, stop: int, count: int) -> Any:
    if _is_leaf(value):
        return value[start:stop] if value.ndim else value

    def cut(inner: Any) -> Any:
        return _piece(inner, start, stop, count)

    if isinstance(value, list | tuple) and len(value) == count and not any(True for _ in _leaves(value)):
        return value[start:stop]  # one text, one id or one name a sample
    return _mapped(value, cut)


def _mapped(value: Any, cut: Callable[[Any], Any]) -> Any:
    if isinstance(value, MutableMapping):
        piece = copy.copy(value)  # keeps what a batch class of others' has beside its items
        for key, inner in value.items():
            piece[key] = cut(inner)
        return piece
    if isinstance(value, Mapping):
        return {key: cut(inner) for key, inner in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(cut, value))
    if isinstance(value, list | tuple):
        return type(value)(map(cut, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        clone: Any = copy.copy(value)
        for field in dataclasses.fields(value):
            object.__setattr__(clone, field.name, cut(getattr(value, field.name)))
        return clone
    return value


def _is_leaf(value: Any) -> bool:
    if isinstance(value, Tensor):
        return True
    return type(value).__module__ == "numpy" and type(value).__name__ == "ndarray"
