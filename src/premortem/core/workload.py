"""What a workload offers: signals to read, controls to turn. It knows nothing of risks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from premortem.core.action import Control
from premortem.core.signal import Signal


class Workload(Protocol):
    """The seam between the risk plane and the world. ``kind`` is what a risk says it watches."""

    @property
    def kind(self) -> str:
        """``training``, ``storage``, ``service``, …"""
        ...

    @property
    def signals(self) -> tuple[Signal, ...]:
        """The observation row, in slot order."""
        ...

    @property
    def controls(self) -> Mapping[str, Control]:
        """What can be turned, by name."""
        ...

    @property
    def witnesses(self) -> Mapping[str, str]:
        """Control → the signal that shows its effective value independently of ``Control.read``."""
        ...

    @property
    def conditions(self) -> Mapping[str, Callable[[], bool | None]]:
        """Named questions that a rung may ask at the end of its verification; ``None`` is unknown."""
        ...
