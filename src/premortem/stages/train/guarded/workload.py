"""A training run as a workload: what can be seen at each optimiser step, and what can be turned."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import torch

from premortem.core.action import Control
from premortem.core.signal import Signal
from premortem.stages.train.guarded.checks import has_acting_learning_rate
from premortem.stages.train.guarded.gradients import local
from premortem.stages.train.guarded.signals import SIGNALS as SIGNALS
from premortem.stages.train.guarded.stepper import Stepped, Stepper
from premortem.stages.train.guarded.trying import NO_ROOM

GIB = 1024.0**3
_DISK_EVERY = 16
_SAMPLED = 64


class Instrument(Protocol):
    """Measures something of its own at each tick: the seam for what not every run has."""

    @property
    def signals(self) -> tuple[Signal, ...]:
        """What it measures, in the order of its values."""
        ...

    def values(self) -> list[float | None]:
        """The present values, one for each signal; called at every tick, also while a step stands still."""
        ...


class TrainingWorkload:
    """Offers signals and controls of one run; ``extra`` signals are the user's own, after those of the instruments."""

    kind = "training"

    def __init__(
        self, stepper: Stepper, folder: Path | None, requests: Mapping[str, Control], extra: tuple[Signal, ...] = (),
        instruments: tuple[Instrument, ...] = (),
    ) -> None:  # fmt: skip
        self._stepper = stepper
        self._folder = folder
        self._instruments = instruments
        own = SIGNALS + tuple(signal for instrument in instruments for signal in instrument.signals)
        self.signals: tuple[Signal, ...] = own + extra
        self._extra = {signal.name: len(own) + i for i, signal in enumerate(extra)}
        self._notes: dict[int, float] = {}
        self.need_gib = 0.0
        self.failed_saves = 0
        self.names = [signal.name for signal in self.signals]
        self.controls: dict[str, Control] = dict(requests)
        self.witnesses: dict[str, str] = {}
        if has_acting_learning_rate(stepper.optimizer):
            self.controls |= {"learning_rate": stepper.lr_factor, "warm_up": stepper.warm_up}
            self.witnesses |= {"learning_rate": "lr_factor", "warm_up": "warm_up"}
        if not stepper.needs_closure:
            self.controls["max_norm"] = stepper.max_norm
            self.witnesses["max_norm"] = "max_norm"
        if stepper.with_.gradient_filter is not None and not stepper.needs_closure:
            self.controls["gradient_filter"] = stepper.softening
            self.witnesses["gradient_filter"] = "filter_strength"
        self.conditions: dict[str, Callable[[], bool | None]] = {"weights are finite": stepper.weights_are_finite}
        self._sample = self._probes()
        self._before: torch.Tensor | None = None
        self._calls = 0
        self._disk: tuple[float | None, float | None] = (None, None)

    def note(self, name: str, value: float) -> None:
        """Measure one of the user's own signals for the present step; raises ``KeyError`` for an unknown one."""
        self._notes[self._extra[name]] = value

    def row(self, stepped: Stepped, step_seconds: float | None) -> list[float | None]:
        """One observation row, in slot order."""
        stepper = self._stepper
        free, factor = self._space()
        has_filter = stepper.with_.gradient_filter is not None
        row: list[float | None] = [
            None if stepped.why == NO_ROOM else stepped.loss,  # none was computed: that says nothing of the training
            stepped.grad_norm,
            stepper.used_lr_factor if stepped.applied else None,
            stepper.used_warm_up if stepped.applied else None,
            stepper.max_norm.value,
            0.0 if stepped.applied else 1.0,
            self._nonfinite_weights(stepped),
            self._weight_change(stepped),
            step_seconds,
            free,
            factor,
            float(self.failed_saves),
            stepper.softening.value if has_filter else None,
        ]
        return row + self._rest()

    def standstill_row(self) -> list[float | None]:
        """An observation while a step stands still: nothing is known but what the instruments measure."""
        return [None] * len(SIGNALS) + self._rest()

    def _rest(self) -> list[float | None]:
        values = [value for instrument in self._instruments for value in instrument.values()]
        values.extend(self._notes.get(slot) for slot in self._extra.values())
        self._notes.clear()
        return values

    def forget_sample(self) -> None:
        """Weights were put back, into new memory perhaps: the next change is not a step's."""
        self._before = None
        self._sample = self._probes()

    def _nonfinite_weights(self, stepped: Stepped) -> float:
        """Scanned only after a bad step: a finite gradient on finite weights keeps them finite or shows next."""
        sound = stepped.why == NO_ROOM or (stepped.applied and math.isfinite(stepped.loss))
        return 0.0 if sound or self._stepper.weights_are_finite() else 1.0

    def _probes(self) -> list[torch.Tensor]:
        """A few elements of a few trainable parameters, as views."""
        here = [local(p.detach()) for p in self._stepper.model.parameters() if p.requires_grad]
        parameters = [p for p in here if p.numel() and p.is_contiguous()]
        chosen = parameters[:: max(1, len(parameters) // 8)][:8]
        return [p.flatten()[: _SAMPLED // 8] for p in chosen]

    def _weight_change(self, stepped: Stepped) -> float | None:
        if not stepped.applied:
            return 0.0
        if not self._sample:
            return None
        now = torch.cat([s.float() for s in self._sample])
        before, self._before = self._before, now
        return None if before is None else float((now - before).abs().sum())

    def _space(self) -> tuple[float | None, float | None]:
        """Free space, asked every few steps; a folder that can't be asked is silence, not health."""
        if self._folder is None:
            return None, None
        if self._calls % _DISK_EVERY == 0:
            try:
                free = shutil.disk_usage(self._folder).free / GIB
                self._disk = (free, free / self.need_gib if self.need_gib else None)
            except OSError:
                self._disk = (None, None)
        self._calls += 1
        return self._disk
