"""premortem: the risk register that runs."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from premortem.run.guard import Guard as Guard
    from premortem.stages import tracking as tracking
    from premortem.stages.process.settings import settings as settings

__version__ = "0.1.0"
__all__ = ["Guard", "__version__"]


def __getattr__(name: str) -> object:
    """``premortem.Guard`` is loaded on first use: ``import premortem`` stays light."""
    if name == "Guard":
        from premortem.run.guard import Guard

        return Guard
    if name == "adapters":
        return importlib.import_module("premortem.adapters")
    if name == "tracking":
        return importlib.import_module("premortem.stages.tracking")
    if name == "settings":
        from premortem.stages.process.settings import settings

        return settings
    raise AttributeError(f"module 'premortem' has no attribute {name!r}")
