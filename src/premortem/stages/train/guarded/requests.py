"""Controls of a training run that are requests, carried out once: restore, skip, stop, prune.

One that did not help may be taken back, where its control can.

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
    """A one-shot control: ``choose`` names the request, ``carry_out`` does it, ``shows`` finds the evidence.

    ``take_back`` undoes what was carried out last, if it was; without it a request cannot be taken back.
    """

    def __init__(
        self, carry_out: Callable[[str], None], shows: Callable[[], bool], take_back: Callable[[], None] | None = None
    ) -> None:
        self._carry_out = carry_out
        self._shows = shows
        self._take_back = take_back
        self._asked: str | None = None

    def turn(self, owner: Owner, override: Override) -> None:
        """Carry the request out; raises what it raises."""
        self._asked = None
        request = str(override.by)
        self._carry_out(request)
        self._asked = request

    def undo(self, owner: Owner) -> None:
        """Take the request back where that can be done; raises what that raises. What was asked is forgotten first."""
        asked, self._asked = self._asked, None
        if asked is not None and self._take_back is not None:
            self._take_back()

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
    """Brings back the last good bundle, verified before anything is touched (law 6); ``take_back`` leaves it again."""

    def __init__(
        self, model: nn.Module, load_good: Callable[[], dict[str, object]], take_back: Callable[[], None]
    ) -> None:
        self._model = model
        self._load_good = load_good
        self._expected: int | None = None
        self.control = Request(self._restore, self._is_restored, take_back)

    def _restore(self, request: str) -> None:
        self._expected = None
        parts = self._load_good()
        weights = parts["model"]
        if not isinstance(weights, dict):
            raise StageError("the bundle's part 'model' is no state dict; it was written by something else")
        self._expected = digest(weights)

    def _is_restored(self) -> bool:
        return self._expected is not None and digest(self._model.state_dict()) == self._expected
