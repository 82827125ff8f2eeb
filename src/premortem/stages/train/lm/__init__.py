"""A decoder-only language model, from a drill-sized one to 25 M parameters."""

from premortem.stages.train.lm.config import DRILL, MEDIUM, SMALL, TINY, LanguageModelConfig, Recipe
from premortem.stages.train.lm.model import LanguageModel, loss

__all__ = ["DRILL", "MEDIUM", "SMALL", "TINY", "LanguageModel", "LanguageModelConfig", "Recipe", "loss"]
