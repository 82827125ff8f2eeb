"""What a guarded training run is about: model, optimiser, and all that moves and rolls back with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from premortem.core.action import Control
from premortem.core.errors import ConfigError
from premortem.core.signal import Signal
from premortem.stages.train.distributed.shards import bare
from premortem.stages.train.guarded.checks import gaps_of, require_torch
from premortem.stages.train.guarded.parts import Parts
from premortem.stages.train.guarded.stepper import Companions
from premortem.stages.train.guarded.workload import TrainingWorkload


@dataclass(frozen=True, slots=True)
class Subject:
    """What is guarded.

    Raises:
        ConfigError: for what is no model or no optimiser of torch.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    companions: Companions
    state: dict[str, object]
    folder: Path | None
    signals: tuple[Signal, ...]
    controls: dict[str, Control] = field(default_factory=dict)
    witnesses: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_torch(self.model, self.optimizer)

    @property
    def name(self) -> str:
        """The run's name in the ledger: one folder, one run."""
        return "training" if self.folder is None else str(self.folder.resolve())

    def parts(self) -> Parts:
        """All that rolls back, by name."""
        parts, with_ = Parts(bare(self.model), self.optimizer), self.companions
        for name, thing in (
            ("scheduler", with_.scheduler),
            ("scaler", with_.scaler),
            ("ema", with_.ema),
            ("gradient_filter", with_.gradient_filter),
            *self.state.items(),
        ):
            parts.add(name, thing)
        return parts

    def equip(self, workload: TrainingWorkload) -> None:
        """Offer the user's own controls beside the run's.

        Raises:
            ConfigError: for a control that the run has already; for a witness of what is not there.
        """
        for name in self.controls:
            if name in workload.controls:
                raise ConfigError(f"controls: found {name!r}, which the run has already; give yours another name")
        for control, signal in self.witnesses.items():
            if control not in self.controls or signal not in workload.names:
                raise ConfigError(
                    f"witnesses: found {control!r}: {signal!r}, expected one of controls= and a signal of the run; "
                    "declare it by signals=(Signal(...),)"
                )
        workload.controls.update(self.controls)
        workload.witnesses.update(self.witnesses)

    def settle(self, *, kept: bool) -> None:
        """State that stages its changes (a recurrent carry) adopts or drops them with the step."""
        for thing in self.state.values():
            settle = getattr(thing, "commit" if kept else "discard", None)
            if callable(settle):
                settle()

    def gaps(self) -> list[str]:
        """What cannot be watched or done here, in words."""
        gaps = gaps_of(self.model, self.optimizer)
        if self.folder is None:
            gaps.append("no folder for checkpoints: nothing can be restored, and a restart begins anew")
        if any(p.device.type != "cpu" for p in self.model.parameters()):
            gaps.append("on an accelerator one transfer a step is awaited: loss and gradient norm (kernel decision 9)")
        if isinstance(self.optimizer, torch.optim.LBFGS):
            gaps.append("LBFGS evaluates the loss itself: clipping, gradient filter and the cap on norms do not apply")
        return gaps
