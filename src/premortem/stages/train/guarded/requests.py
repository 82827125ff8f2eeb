"""Controls of a training run that are requests, carried out once: restore, skip, stop, prune.

What each reads back is evidence found at the time of reading, never a flag that the request set itself.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping

import torch
from torch import nn

from premortem.core.action import Override, Owner, Setting
from premortem.core.errors import StageError
from premortem.stages.train.guarded.gradients import local

NOTHING = "nothing"


class Request:
    """A one-shot control: ``choose`` names the request, ``carry_out`` does it, ``shows`` finds the evidence."""

    def __init__(self, carry_out: Callable[[str], None], shows: Callable[[], bool]) -> None:
        self._carry_out = carry_out
        self._shows = shows
        self._asked: str | None = None

    def turn(self, owner: Owner, override: Override) -> None:
        """Carry the request out; raises what it raises."""
        self._asked = None
        request = str(override.by)
        self._carry_out(request)
        self._asked = request

    def undo(self, owner: Owner) -> None:
        """A request that was carried out cannot be taken back; only what was asked is forgotten."""
        self._asked = None

    def read(self) -> Setting:
        """The request, while its evidence shows; otherwise ``nothing``."""
        return self._asked if self._asked is not None and self._shows() else NOTHING


def digest(tensors: Mapping[str, object]) -> int:
    """A crc32 over names and bytes of a state dict's tensors, wherever they lie; of one in shards, the shard here."""
    crc = 0
    for name in sorted(tensors):
        value = tensors[name]
        if isinstance(value, torch.Tensor):
            flat = local(value.detach()).to("cpu").contiguous().flatten()
            crc = zlib.crc32(name.encode(), crc)
            if flat.numel():
                crc = zlib.crc32(flat.view(torch.uint8).numpy().data, crc)
    return crc


class Restore:
    """Brings back the last good bundle, verified before anything is touched (law 6)."""

    def __init__(self, model: nn.Module, load_good: Callable[[], dict[str, object]]) -> None:
        self._model = model
        self._load_good = load_good
        self._expected: int | None = None
        self.control = Request(self._restore, self._is_restored)

    def _restore(self, request: str) -> None:
        self._expected = None
        parts = self._load_good()
        weights = parts["model"]
        if not isinstance(weights, dict):
            raise StageError("the bundle's part 'model' is no state dict; it was written by something else")
        self._expected = digest(weights)

    def _is_restored(self) -> bool:
        return self._expected is not None and digest(self._model.state_dict()) == self._expected
