"""Real faults in a small language model's training: a learning rate × 100, a poisoned batch."""

from __future__ import annotations

import math
from pathlib import Path

from premortem.core.drill import Bounds
from premortem.faults.fault import Fault
from premortem.faults.numeric import LearningRateJump, PoisonedOutput
from premortem.risks.case import TrainingCase
from premortem.stages.train.trainable import Trainable, small_language_model

AT = 200


def jump(run: Trainable, folder: Path) -> Fault:
    """The scheduled learning rate, × 100 at every step."""
    return LearningRateJump(run.optimizer, 100.0)


def poisoned(run: Trainable, folder: Path) -> Fault:
    """Tokens are no floats: the batch's embedding carries one NaN, at three steps from the onset."""
    embedding = run.model.get_submodule("embedding")
    return PoisonedOutput(embedding, range(0, 3), math.nan)


CASES = (
    TrainingCase(
        name="learning rate × 100", build=small_language_model, fault=jump, at=AT, lasts=150,
        bounds=Bounds(detect_within=10),
    ),
    TrainingCase(
        name="poisoned batch", build=small_language_model, fault=poisoned, at=AT, lasts=150,
        bounds=Bounds(detect_within=10),
    ),
)  # fmt: skip
