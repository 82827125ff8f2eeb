"""The cap on single gradients: a norm far above the healthy one never reaches the weights."""

from __future__ import annotations

import math

from premortem.core.engine import Engine
from premortem.core.evidence import Record
from premortem.stages.train.guarded.stepper import Stepper

_TIMES = 25.0
"""A gradient norm of so many times the healthy one is held back."""


class Capping:
    """Lets the cap follow the healthy baseline; a new normal has none yet."""

    def __init__(self, engine: Engine, stepper: Stepper) -> None:
        self._engine, self._stepper = engine, stepper

    def hear(self, record: Record) -> None:
        """A good mark or a rebaseline moves the baseline."""
        if record.event in ("good", "rebaselined"):
            self.refresh()

    def refresh(self) -> None:
        """Read the baseline again."""
        band = self._engine.baseline.bands.get("grad_norm")
        self._stepper.gate = math.inf if band is None else _TIMES * (band.location + 3 * band.scale)
