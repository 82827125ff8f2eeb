"""Every batch is poisoned from a step on: a guard that only skips would skip to the end and look calm."""

from __future__ import annotations

import math
from pathlib import Path

from premortem.core.drill import Bounds
from premortem.faults.fault import Fault
from premortem.faults.numeric import PoisonedOutput
from premortem.risks.case import TrainingCase
from premortem.stages.train.trainable import Trainable, small_language_model


def poisoned(run: Trainable, folder: Path) -> Fault:
    """One NaN in the embedding's output, at every training step while it lasts."""
    return PoisonedOutput(run.model.get_submodule("embedding"), None, math.nan)


CASES = (
    TrainingCase(
        name="every batch poisoned", build=small_language_model, fault=poisoned, at=200, lasts=40,
        bounds=Bounds(detect_within=10),
    ),
)  # fmt: skip
