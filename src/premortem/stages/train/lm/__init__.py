"""A decoder-only language model, from a drill-sized one to 25 M parameters."""

from premortem.stages.train.lm.config import MEDIUM, SMALL, TINY, LanguageModelConfig
from premortem.stages.train.lm.model import LanguageModel, loss
from premortem.stages.train.lm.recipe import DRILL, Recipe

__all__ = ["DRILL", "MEDIUM", "SMALL", "TINY", "LanguageModel", "LanguageModelConfig", "Recipe", "loss"]
