"""A detector's state as plain numbers: named fields, and windows as ``name.0``, ``name.1``, …"""

from __future__ import annotations

from collections.abc import Sequence

from premortem.core.detector import State
from premortem.core.errors import ConfigError


def take(detector: object, fields: Sequence[str]) -> State:
    """Copy the named attributes."""
    return {name: float(getattr(detector, name)) for name in fields}


def put_back(detector: object, fields: Sequence[str], state: State) -> None:
    """Set the named attributes; raises ``KeyError`` before anything changed when one is missing."""
    values = [float(state[name]) for name in fields]
    for name, value in zip(fields, values, strict=True):
        setattr(detector, name, value)


def take_window(name: str, window: Sequence[float]) -> State:
    """Copy a window, oldest slot first, with its length."""
    numbers = {f"{name}.{i}": float(v) for i, v in enumerate(window)}
    numbers[f"{name}.length"] = float(len(window))
    return numbers


def window_from(name: str, state: State) -> list[float]:
    """Read a window back; raises ``KeyError`` when a number is missing."""
    return [float(state[f"{name}.{i}"]) for i in range(int(state[f"{name}.length"]))]


def require(condition: bool, where: str, found: object, expected: str) -> None:  # noqa: FBT001
    """Refuse an impossible parameter.

    Raises:
        ConfigError: what was found, where, and what was expected.
    """
    if not condition:
        raise ConfigError(f"{where}: found {found!r}, expected {expected}; change the parameter")
