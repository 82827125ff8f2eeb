"""Memory that can be given up beside the training itself: caches, and models that stand idle.

A cache is anything callable that empties it; the collector's, torch's and malloc's own are emptied with them. An idle
model goes from an accelerator to the host, from the host to a file; it comes back by itself when it is called.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from premortem.core.action import Setting
from premortem.core.errors import StageError
from premortem.stages.train.guarded.gauge import Gauge
from premortem.stages.train.guarded.settings import NumberSetting


class Caches(NumberSetting):
    """Steps between two emptyings; by itself none ever is.

    Once turned, they are emptied with the very next step, and ``emptied`` is called after each time: whether it helped
    is to be seen at once.
    """

    def __init__(self, gauge: Gauge, own: Sequence[Callable[[], object]], emptied: Callable[[], None]) -> None:
        super().__init__(math.inf)
        self._gauge = gauge
        self._own = tuple(own)
        self._emptied = emptied
        self._since = 0.0
        self.used = math.inf
        """Between how many steps the last one emptied them."""

    def stepped(self) -> None:
        """A step is over."""
        self.used = self.value
        self._since += 1.0
        if self._since >= self.value:
            self._since = 0.0
            for empty in self._own:
                empty()
            self._gauge.tidy()
            self._emptied()

    def _set(self, value: Setting) -> None:
        super()._set(value)
        self._since = math.inf


class IdleModels(NumberSetting):
    """How many of the idle models may stay where they compute; the last ones go first."""

    def __init__(self, models: Sequence[nn.Module], folder: Path | None = None) -> None:
        super().__init__(float(len(models)))
        self._places = [_Place(model, folder) for model in models]

    def read(self) -> Setting:
        """How many really are there now; an unloaded one that was called came back by itself."""
        return self.num_kept

    @property
    def num_kept(self) -> float:
        """Models whose weights lie where they compute."""
        return float(sum(not place.is_away for place in self._places))

    def _set(self, value: Setting) -> None:
        super()._set(value)
        for i, place in enumerate(self._places):
            if i < self.value:
                place.come_back()
            else:
                place.leave()

    def close(self) -> None:
        """Bring every model back, and forget that it could be sent away."""
        for place in self._places:
            place.come_back()


class _Place:
    """Where one model's weights are."""

    def __init__(self, model: nn.Module, folder: Path | None) -> None:
        self._model = model
        self._folder = folder
        self._file: Path | None = None
        self._device: torch.device | None = None
        self._hook: torch.utils.hooks.RemovableHandle | None = None

    @property
    def is_away(self) -> bool:
        """Whether the weights are elsewhere now."""
        return self._file is not None or self._device is not None

    def leave(self) -> None:
        """Send the weights away.

        Raises:
            StageError: where the file cannot be written; the model then stays as it is.
        """
        if self.is_away:
            return
        tensors = self._tensors()
        if any(t.device.type != "cpu" for t in tensors):
            self._device = next(t.device for t in tensors if t.device.type != "cpu")
            self._model.to("cpu")
        elif tensors:
            self._file = self._write(tensors)
            for tensor in tensors:
                tensor.data = torch.empty(0, dtype=tensor.dtype)
        self._hook = self._model.register_forward_pre_hook(lambda module, given: self.come_back())

    def come_back(self) -> None:
        """Bring the weights back; does nothing where they are.

        Raises:
            StageError: where the file is gone or cannot be read.
        """
        if self._device is not None:
            self._model.to(self._device)
        elif self._file is not None:
            try:
                values = torch.load(self._file, weights_only=True)
            except (OSError, RuntimeError) as error:
                raise StageError(f"{self._file}: an idle model's weights cannot be read back: {error}") from error
            for tensor, value in zip(self._tensors(), values, strict=True):
                tensor.data = value
            self._file.unlink(missing_ok=True)
        self._file = self._device = None
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def _tensors(self) -> list[Tensor]:
        return [*self._model.parameters(), *self._model.buffers()]

    def _write(self, tensors: list[Tensor]) -> Path:
        try:
            with tempfile.NamedTemporaryFile(
                prefix="premortem-idle-", suffix=".pt", dir=self._folder, delete=False
            ) as stream:
                torch.save([t.detach() for t in tensors], stream)
        except (OSError, RuntimeError) as error:
            raise StageError(f"an idle model's weights cannot be written: {error}; it stays in memory") from error
        return Path(stream.name)
