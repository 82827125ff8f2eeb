"""Thoughts that were thought already: a puzzle asked again costs nothing, one asked deeper goes on where it stopped."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import Tensor

from premortem.core.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Thought:
    """Where the model stands on one puzzle; legend as in ``hrm.model``.

    Attributes:
        logits: (C, V) token logits of the segment at which it stopped.
        z_high: (S, D) state of the slow module, to go on from.
        z_low: (S, D) state of the fast module.
        segments: run so far.
        halted: whether the model chose to stop.
        model: which load of which bundle thought it.
    """

    logits: Tensor
    z_high: Tensor
    z_low: Tensor
    segments: int
    halted: bool
    model: str

    @property
    def tokens(self) -> bytes:
        """The likeliest token of each cell, one byte a cell."""
        return bytes(self.logits.argmax(-1).tolist())

    def serves(self, segments: int) -> bool:
        """Whether so deep an answer needs no more thinking."""
        return self.halted or self.segments >= segments


class AnswerCache(Generic[T]):
    """What was thought, by puzzle, the least lately used one leaving first.

    Args:
        bound: entries at most; ``None`` keeps everything, which grows until memory ends.
    """

    def __init__(self, bound: int | None = 4096) -> None:
        self._entries: OrderedDict[bytes, T] = OrderedDict()
        self._bound: int | None = None
        self.most = 0
        """Entries ever held at once."""
        self.clears = 0
        self.bound = bound

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def bound(self) -> int | None:
        """Entries at most; ``None`` is without end. Lowering it drops the oldest at once."""
        return self._bound

    @bound.setter
    def bound(self, bound: int | None) -> None:
        if bound is not None and bound < 0:
            raise ConfigError(f"cache bound: found {bound}, expected 0 or more, or None for no bound")
        self._bound = bound
        self._trim()

    def get(self, puzzle: bytes) -> T | None:
        """What is known of this puzzle."""
        found = self._entries.get(puzzle)
        if found is not None:
            self._entries.move_to_end(puzzle)
        return found

    def put(self, puzzle: bytes, thought: T) -> None:
        """Remember it."""
        self._entries[puzzle] = thought
        self._entries.move_to_end(puzzle)
        self._trim()
        self.most = max(self.most, len(self._entries))

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self.clears += 1

    def _trim(self) -> None:
        while self._bound is not None and len(self._entries) > self._bound:
            self._entries.popitem(last=False)
