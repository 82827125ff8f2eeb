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
        name="learning rate / 1000", build=small_language_model, fault=drop, at=100, lasts=400,
        bounds=Bounds(detect_within=60), learns_curve=True,
        params={"train/slow-convergence": {"curve_band": 0.5, "curve_patience": 20, "curve_memory": 10}},
    ),
)  # fmt: skip
