"""The Hierarchical Reasoning Model (arXiv 2506.21734) with deep supervision and learned halting.

``model = HRM(sudoku_config(4))``; ``carry = model.initial_carry(batch)``; then for each batch
``carry, loss, metrics = act_loss(model, carry, batch)`` and the caller's own backward and step.
"""

from premortem.stages.train.hrm.baseline import PlainTransformer, Score, lookup_score, nearest_solutions
from premortem.stages.train.hrm.carry import IGNORED, Batch, Carry, to_batch
from premortem.stages.train.hrm.config import PAPER_SUDOKU, Halting, HRMConfig, sudoku_config
from premortem.stages.train.hrm.evaluation import Evaluation, evaluate
from premortem.stages.train.hrm.loss import Metrics, act_loss, correctness, token_losses
from premortem.stages.train.hrm.model import HRM, Segment
from premortem.stages.train.hrm.recipe import Recipe, sudoku_recipe
from premortem.stages.train.hrm.supervision import DeepSupervision, number_slots

__all__ = [
    "HRM",
    "IGNORED",
    "PAPER_SUDOKU",
    "Batch",
    "Carry",
    "DeepSupervision",
    "Evaluation",
    "HRMConfig",
    "Halting",
    "Metrics",
    "PlainTransformer",
    "Recipe",
    "Score",
    "Segment",
    "act_loss",
    "correctness",
    "evaluate",
    "lookup_score",
    "nearest_solutions",
    "number_slots",
    "sudoku_config",
    "sudoku_recipe",
    "to_batch",
    "token_losses",
]
