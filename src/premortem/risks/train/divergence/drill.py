"""Real faults in a small language model's training: a learning rate × 100, a poisoned batch."""

from __future__ import annotations

import math
from pathlib import Path

from premortem.core.drill import Bounds
from premortem.faults.fault import Fault
from premortem.faults.filter import FilterJump
from premortem.faults.numeric import LearningRateJump, PoisonedOutput
from premortem.risks.case import TrainingCase
from premortem.stages.train.grokfast import GrokfastEMA
from premortem.stages.train.trainable import Trainable, small_language_model

AT = 200


def jump(run: Trainable, folder: Path) -> Fault:
    """The scheduled learning rate, × 100 at every step."""
    return LearningRateJump(run.optimizer, 100.0)


def poisoned(run: Trainable, folder: Path) -> Fault:
    """Tokens are no floats: the batch's embedding carries one NaN, at three steps from the onset."""
    embedding = run.model.get_submodule("embedding")
    return PoisonedOutput(embedding, range(3), math.nan)


def too_high(run: Trainable, folder: Path) -> Fault:
    """The source's 1e-3 is ten times too high; this workload bears × 10, so it is × 30."""
    return LearningRateJump(run.optimizer, 30.0)


def nan_rows(run: Trainable, folder: Path) -> Fault:
    """Rows with a NaN, every fifteenth batch for a while."""
    return PoisonedOutput(run.model.get_submodule("embedding"), range(0, 46, 15), math.nan)


def with_grokfast(seed: int) -> Trainable:
    """The drill's model under a mild gradient filter (Grokfast, arXiv 2405.20233)."""
    run = small_language_model(seed)
    run.gradient_filter = GrokfastEMA(alpha=0.98, lamb=0.05)
    return run


def filter_too_strong(run: Trainable, folder: Path) -> Fault:
    """λ × 200: the source's 0.5 may do no harm, so it is raised until it does."""
    assert run.gradient_filter is not None
    return FilterJump(run.gradient_filter, 200.0)


WITHIN = Bounds(detect_within=10)
CASES = (
    TrainingCase(name="learning rate × 100", build=small_language_model, fault=jump, at=AT, lasts=150,
                 bounds=WITHIN, entries=("HRM-9.1.1", "DEF-1")),
    TrainingCase(name="poisoned batch", build=small_language_model, fault=poisoned, at=AT, lasts=150,
                 bounds=WITHIN, entries=("HRM-9.1.1", "DEF-1")),
    TrainingCase(name="learning rate × 30", build=small_language_model, fault=too_high, at=AT, lasts=200,
                 bounds=WITHIN, entries=("AF-1.4",)),
    TrainingCase(name="NaN rows", build=small_language_model, fault=nan_rows, at=AT, lasts=150,
                 bounds=WITHIN, entries=("AF-1.4",)),
    TrainingCase(name="Grokfast λ far too high", build=with_grokfast, fault=filter_too_strong, at=150, lasts=200,
                 bounds=Bounds(detect_within=25), entries=("AF-1.4",)),
)  # fmt: skip
