"""The real fault: a learning rate × 100 in the middle of a small language model's training."""

from __future__ import annotations

from pathlib import Path

from premortem.core.drill import Bounds
from premortem.faults.fault import Fault
from premortem.faults.numeric import LearningRateJump
from premortem.risks.case import TrainingCase
from premortem.stages.train.trainable import Trainable, small_language_model


def jump(run: Trainable, folder: Path) -> Fault:
    """Any fault of ``premortem.faults``, or one of your own: it must show that it was there, and that it is gone."""
    return LearningRateJump(run.optimizer, 100.0)


CASES = (
    TrainingCase(
        name="learning rate × 100", build=small_language_model, fault=jump, at=200, lasts=150,
        bounds=Bounds(detect_within=10),
    ),
)  # fmt: skip
