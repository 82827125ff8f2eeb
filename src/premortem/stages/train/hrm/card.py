"""What a bundle must say of itself to be served: its task, its version of the puzzle, and the model's sizes.

The weights alone do not tell how many heads they were trained with, nor that 16 cells are a 4×4 Sudoku.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from premortem.core.errors import ConfigError
from premortem.stages.train.checkpoint import load_bundle, save_bundle
from premortem.stages.train.hrm.config import HRMConfig
from premortem.stages.train.hrm.model import HRM

PART = "card"


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """``task``: such as ``sudoku`` or ``maze``; ``size``: cells along one side; ``config``: of the model."""

    task: str
    size: int
    config: HRMConfig

    def tree(self) -> dict[str, Any]:
        """Plain data, to be saved as the bundle's part ``card``."""
        return asdict(self)


def save_model(folder: Path, step: int, model: HRM, *, task: str, size: int) -> Path:
    """Save a model so that it can be served from its bundle alone; returns the bundle's folder.

    Raises:
        ConfigError, StageError: as :func:`save_bundle`.
    """
    card = Card(task=task, size=size, config=model.config)
    return save_bundle(folder, step, {"model": model.state_dict(), PART: card.tree()}).path


def read_card(bundle: Path) -> Card:
    """The card of a bundle, verified with everything else in it.

    Raises:
        ConfigError: there is no such folder, no card in it, or one that cannot be.
        StageError: the bundle does not verify.
    """
    if not bundle.is_dir():
        raise ConfigError(f"{bundle}: found no folder there; expected a checkpoint bundle, such as runs/step-00001200")
    parts = load_bundle(bundle)
    tree = parts.get(PART)
    if not isinstance(tree, Mapping) or "model" not in parts:
        raise ConfigError(
            f"{bundle}: found the parts {', '.join(sorted(parts))}, expected model and {PART} (task, size, sizes of "
            "the model); save it with premortem.stages.train.hrm.card.save_model"
        )
    try:
        return msgspec.convert(tree, Card)
    except (msgspec.ValidationError, ConfigError) as error:
        raise ConfigError(f"{bundle}: its card says what cannot be: {error}; save it anew with save_model") from error
