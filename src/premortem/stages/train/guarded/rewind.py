"""The random streams at one moment, taken so cheaply that every micro-batch may have its own; kept in memory only."""

from __future__ import annotations

import random
import sys

import torch


class RandomMoment:
    """torch, its accelerators where they are in use, Python, numpy where it is loaded; under 20 microseconds.

    Not covered: generators of the user's own.
    """

    __slots__ = ("_accelerators", "_numpy", "_python", "_torch")

    def __init__(self) -> None:
        self._torch = torch.get_rng_state()
        self._python = random.getstate()
        self._accelerators = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
        numpy = sys.modules.get("numpy")
        self._numpy = None if numpy is None else numpy.random.get_state()

    def put_back(self) -> None:
        """Let every stream go on from that moment."""
        torch.set_rng_state(self._torch)
        random.setstate(self._python)
        if self._accelerators:
            torch.cuda.set_rng_state_all(self._accelerators)
        if self._numpy is not None:
            sys.modules["numpy"].random.set_state(self._numpy)
