"""A small hierarchical reasoning model halts at once in mid-run: a real change of the setting that it halts by."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from premortem.core.drill import Bounds
from premortem.faults.disturbance import Disturbance
from premortem.faults.fault import Evidence, Fault
from premortem.risks.case import Offers, TrainingCase
from premortem.stages.train.hrm import HRM, Halting
from premortem.stages.train.puzzles import SIGNALS, PuzzleRun, small_hrm
from premortem.stages.train.trainable import Trainable


class HaltingJump(Disturbance):
    """``threshold`` and ``exploration`` of a model's halting are changed once, as an edited setting would be.

    Covered: models that read ``halting`` at each segment. A rung may have set either back before this is removed.
    """

    name = "halting jump"

    def __init__(self, model: HRM, threshold: float, exploration: float) -> None:
        self._model = model
        self._to = replace(model.halting, threshold=threshold, exploration=exploration)
        self._before: Halting | None = None
        self._seen: Halting | None = None

    def _apply(self) -> None:
        self._before = self._model.halting
        self._model.halting = self._to
        self._seen = self._model.halting

    def _undo(self) -> None:
        if self._before is not None:
            self._model.halting = self._before

    def observed(self) -> Evidence:
        """What the model halted by once it was on; a rung may have mended it since."""
        holds = self._before is not None and self._seen == self._to != self._before
        return Evidence(holds, f"{self.name}: {self._seen} where {self._before} was set")

    def gone(self) -> Evidence:
        """Reads the setting again."""
        if self._before is None:
            return Evidence(None, f"{self.name}: never put on")
        return Evidence(self._model.halting == self._before, f"{self.name}: halting is {self._model.halting}")


def at_once(run: Trainable, folder: Path) -> Fault:
    """One segment for every puzzle, explorers too: with exploration on, one segment did no harm."""
    assert isinstance(run.model, HRM)
    return HaltingJump(run.model, -math.inf, 0.0)


def offers(run: Trainable) -> Offers:
    """The carry rolls back with the weights; both settings of halting can be turned."""
    assert isinstance(run, PuzzleRun)
    return Offers(
        state={"carry": run.supervision}, signals=SIGNALS, measured=run.measured, controls=run.controls
    )  # fmt: skip


# early: a model that has learnt to go on thinking gets by with one segment on some seeds, and then nothing is harmed
CASES = (
    TrainingCase(
        name="halts at once", build=small_hrm, fault=at_once, at=20, lasts=1000,
        bounds=Bounds(detect_within=20, absolute=0.02), offers=offers,
    ),
)  # fmt: skip
