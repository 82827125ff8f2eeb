"""A signal is a named stream of measurements; a workload declares which ones it offers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Signal:
    """What is measured: its unit, and whether a higher value is the worse one.

    ``banded`` signals get a healthy baseline, and an incident in which they are implicated recovers
    only inside its band. ``slack`` widens that band: a healthy gradient norm doubles while a model memorises.
    """

    name: str
    unit: str = ""
    higher_is_worse: bool = True
    banded: bool = False
    slack: float = 1.0
    help: str = ""
