"""What a training run's bundle holds, gathered and put back: everything that belongs to a step."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from typing import Any, Protocol, cast

import torch
from torch import nn

from premortem.core.errors import ConfigError, StageError


class Stateful(Protocol):
    """Anything with torch's two state methods."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state: Any) -> Any: ...


def random_streams() -> dict[str, object]:
    """The state of every random stream of the process: torch, its accelerators, Python, numpy if loaded."""
    version, internal, gauss = random.getstate()
    streams: dict[str, object] = {
        "torch": torch.get_rng_state(),
        "python": [version, list(internal), gauss],
    }
    if torch.cuda.is_available():
        streams["cuda"] = torch.cuda.get_rng_state_all()
    if "numpy" in sys.modules:
        name, keys, position, has_gauss, cached = sys.modules["numpy"].random.get_state()
        streams["numpy"] = [name, [int(k) for k in keys], position, has_gauss, cached]
    return streams


def put_back_random_streams(streams: Mapping[str, Any]) -> None:
    """Put every stream back as :func:`random_streams` found it."""
    torch.set_rng_state(streams["torch"])
    version, internal, gauss = streams["python"]
    random.setstate((version, tuple(internal), gauss))
    if "cuda" in streams and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(streams["cuda"])
    if "numpy" in streams:
        import numpy as np

        name, keys, position, has_gauss, cached = streams["numpy"]
        np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))


class Parts:
    """The stateful objects of a run by part name."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._model = model
        self._optimizer = optimizer
        self._others: dict[str, Stateful] = {}

    def add(self, name: str, thing: object | None) -> None:
        """Bring something else that must roll back.

        Raises:
            ConfigError: when it has no ``state_dict`` and ``load_state_dict``.
        """
        if thing is None:
            return
        if not (hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict")):
            raise ConfigError(
                f"state[{name!r}]: found a {type(thing).__name__} without state_dict and load_state_dict; "
                "give it both, or leave it out and accept that it does not roll back"
            )
        self._others[name] = cast("Stateful", thing)

    def gather(self, *, weights: bool = True) -> dict[str, object]:
        """A live view of every part; nothing is copied. ``weights``: model and optimiser, too."""
        return {name: thing.state_dict() for name, thing in self._all(weights=weights).items()}

    def _all(self, *, weights: bool) -> dict[str, Stateful]:
        own: dict[str, Stateful] = {"model": self._model, "optimizer": self._optimizer} if weights else {}
        return own | self._others

    def put_back(self, parts: Mapping[str, Any], *, weights: bool = True) -> None:
        """Load every part that the run has; one that the bundle lacks is an error before anything changes.

        ``weights``: model and optimiser, too; shards are put back by who read them.

        Raises:
            StageError: naming the missing part.
            ConfigError: naming the part that is of another shape.
        """
        asked = self._all(weights=weights)
        missing = [name for name in asked if name not in parts]
        if missing:
            raise StageError(
                f"the bundle lacks {', '.join(missing)}; it was saved by a run without them: "
                "resume with the same companions, or start in an empty folder"
            )
        for name, thing in asked.items():
            try:
                thing.load_state_dict(parts[name])
            except (RuntimeError, ValueError, KeyError, TypeError) as error:
                raise ConfigError(
                    f"the bundle's part {name!r} does not fit this run's {type(thing).__name__}: "
                    f"{' '.join(str(error).split())[:200]}; build it as it was, or give another folder"
                ) from error
