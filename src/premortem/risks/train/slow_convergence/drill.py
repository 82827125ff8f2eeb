"""The learning rate falls to a thousandth in mid-run, beside the curve of a healthy run of another seed."""

from __future__ import annotations

from pathlib import Path

from premortem.core.drill import Bounds
from premortem.faults.fault import Fault
from premortem.faults.numeric import LearningRateJump
from premortem.risks.case import TrainingCase
from premortem.stages.train.trainable import Trainable, small_language_model


def drop(run: Trainable, folder: Path) -> Fault:
    """The scheduled learning rate, / 1000 at every step."""
    return LearningRateJump(run.optimizer, 1e-3)


CASES = (
    TrainingCase(
        name="learning rate / 1000", build=small_language_model, fault=drop, at=40, lasts=400,
        bounds=Bounds(detect_within=30), learns_curve=True,
        params={"train/slow-convergence": {
            "pace_window": 16, "pace_memory": 4, "pace_left": 0.5, "by": 30.0, "tries": 2, "confirm": 8, "deadline": 24,
        }},
    ),
)  # fmt: skip
