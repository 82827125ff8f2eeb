"""The world outside: each adapter is one module, imported only by who uses it, and uses premortem as anyone would."""

from __future__ import annotations

import importlib
from types import ModuleType

_ADAPTERS = ("lightning", "transformers")


def __getattr__(name: str) -> ModuleType:
    """``premortem.adapters.transformers`` is imported on first use."""
    if name in _ADAPTERS:
        return importlib.import_module(f"premortem.adapters.{name}")
    raise AttributeError(
        f"module 'premortem.adapters' has no attribute {name!r}; expected one of {', '.join(_ADAPTERS)}"
    )
