"""Healthy moments in this process's own memory: a fast loop goes back a few dozen steps, not to the last bundle.

A bundle costs tens of milliseconds, whatever the model: in a loop of thousands of steps a second saving at 4 % of
the time leaves hundreds of steps between two. A copy in memory costs what copying costs. It earns its good mark as a
bundle does, by a probation of healthy steps, its bytes are hashed when it is taken and again before it is put back,
and it dies with the process: only bundles survive that (decision 0018).

Covered: one process whose weights, optimiser and companions fit three times into 64 MiB and into a thirty-second of
the room that is left; larger states are slow enough for bundles to follow. Not covered: several processes.
"""

from __future__ import annotations

import copy
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from premortem.machine.memory import room

_FEWEST, _FIRST = 25, 60
"""Steps between two, and before the first: a loss that has just begun to fall makes a band that nothing keeps to."""
_SHARE, _SHARE_BEHIND = 0.01, 0.05
"""Of training time, at most; and where none was taken in the later half of the steps."""
_COPIES = 3  # a good one and two on probation
_MOST = 64 << 20
_OF_ROOM = 1 / 32


@dataclass(frozen=True, slots=True)
class Moment:
    """All that rolls back, as it was at one step; ``hash``: SHA-256 over names, plain values and tensors."""

    step: int
    parts: dict[str, Any]
    hash: str

    def copied(self) -> dict[str, Any] | None:
        """The parts, to be put back; ``None`` where their bytes are not those that were taken."""
        if _hashed(self.parts) != self.hash:
            return None
        return {name: _copy(part) for name, part in self.parts.items()}


class Moments:
    """Takes them, keeps those on probation and the last good one.

    Args:
        gather: a live view of all that rolls back, by name.
    """

    def __init__(self, gather: Callable[[], dict[str, Any]]) -> None:
        self._gather = gather
        self._on_probation: dict[int, Moment] = {}
        self._good: Moment | None = None
        self._since = self._steps = 0
        self._seconds = 0.0
        self._trained_s = 0.0
        self._least_s = 0.0
        self._is_off = False

    def stepped(self, seconds: float | None) -> None:
        """Count a step."""
        self._since += 1
        self._steps += 1
        self._trained_s += seconds or 0.0

    @property
    def is_due(self) -> bool:
        """Whether it is time for one: not sooner than every 25 steps, nor for more than its share of the time."""
        if self._is_off or self._since < _FEWEST or self._steps < _FIRST:
            return False
        share = _SHARE_BEHIND if 2 * self._since > self._steps else _SHARE
        return self._seconds + self._least_s <= share * self._trained_s

    def take(self, tick: int, step: int) -> bool:
        """Take this moment, on probation from this tick; ``False`` where it cannot be, now and ever after.

        What cannot be copied or hashed (a state of the user's own) is left to bundles: nothing is raised (law 8).
        """
        self._since = 0
        try:
            parts = self._gather()
            if not self._least_s and not _fits(parts):
                raise MemoryError
            began = time.monotonic()
            kept = {name: _copy(part) for name, part in parts.items()}
            moment = Moment(step, kept, _hashed(kept))
        except Exception:
            self.give_up()
            return False
        for old in sorted(self._on_probation)[: 2 - _COPIES + len(self._on_probation)]:
            del self._on_probation[old]
        self._on_probation[tick] = moment
        took = time.monotonic() - began
        self._seconds += took
        self._least_s = min(self._least_s or took, took)
        return True

    def mark_good(self, tick: int) -> bool:
        """The moment of this tick earned its mark; ``False`` where none was taken then."""
        moment = self._on_probation.pop(tick, None)
        if moment is None:
            return False
        self._good = moment
        self._on_probation = {at: kept for at, kept in self._on_probation.items() if at > tick}
        return True

    def good(self) -> tuple[int, dict[str, Any]] | None:
        """Step and parts of the last good moment, checked and copied; one that was damaged is dropped."""
        try:
            parts = None if self._good is None else self._good.copied()
        except MemoryError:
            parts = None
        if self._good is None or parts is None:
            self._good = None
            return None
        return self._good.step, parts

    def leave(self, beyond: int) -> None:
        """The run went back to a step: what was taken later is not on its way, and probation begins anew."""
        self._on_probation.clear()
        if self._good is not None and self._good.step > beyond:
            self._good = None

    def give_up(self) -> None:
        """Memory is short: let all go and take no more."""
        self._on_probation.clear()
        self._good, self._is_off = None, True


def _fits(parts: Mapping[str, Any]) -> bool:
    size = _COPIES * sum(tensor.numel() * tensor.element_size() for tensor in _tensors(parts))
    left = room()
    return size <= _MOST and (left is None or size <= _OF_ROOM * left.left)


def _copy(node: Any) -> Any:
    """A deep copy on the host."""
    if isinstance(node, Tensor):
        return node.detach().to("cpu", copy=True)
    if isinstance(node, dict):
        made: dict[Any, Any] = OrderedDict() if isinstance(node, OrderedDict) else {}
        made.update((key, _copy(value)) for key, value in node.items())
        if (versions := getattr(node, "_metadata", None)) is not None:  # of torch's modules, asked for at loading
            made._metadata = copy.deepcopy(versions)  # type: ignore[attr-defined]
        return made
    if type(node) in (list, tuple):
        return type(node)(_copy(value) for value in node)
    return node if isinstance(node, int | float | str | bool | None) else copy.deepcopy(node)


def _tensors(node: Any) -> Iterator[Tensor]:
    if isinstance(node, Tensor):
        yield node
    elif isinstance(node, Mapping):
        for value in node.values():
            yield from _tensors(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _tensors(value)


def _hashed(parts: Mapping[str, Any]) -> str:
    found = hashlib.sha256()
    _feed(found.update, parts)
    return found.hexdigest()


def _feed(update: Callable[[Any], None], node: Any) -> None:
    """What a state is made of, in order; objects of other types are passed over."""
    if isinstance(node, Tensor):
        update(f"{node.dtype} {tuple(node.shape)}".encode())
        if node.numel():
            update(node.contiguous().flatten().view(torch.uint8).numpy().data)
    elif isinstance(node, Mapping):
        for key, value in node.items():
            update(repr(key).encode())
            _feed(update, value)
    elif isinstance(node, list | tuple):
        update(b"%d" % len(node))
        for value in node:
            _feed(update, value)
    elif node is None or isinstance(node, int | float | str | bool | bytes):
        update(repr(node).encode())
