"""``premortem.Guard``: a register, loaded and bound once, that guards workloads."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from premortem.core.action import Control
from premortem.core.errors import ConfigError
from premortem.core.signal import Signal
from premortem.core.workload import Workload
from premortem.ledger.ledger import Ledger
from premortem.registers.load import load_register
from premortem.registers.schema import Entry, RegisterFile, RiskUse, Scalar
from premortem.run.bind import bind_ladder, bind_risks
from premortem.run.discover import bring_risks
from premortem.run.suggest import closest

if TYPE_CHECKING:
    import torch
    from torch import nn

    from premortem.run.training import GuardedTraining
    from premortem.run.watching import Watch
    from premortem.stages.data.obtain import ReadySet
    from premortem.stages.data.source import Source
    from premortem.stages.data.transport import Patience
    from premortem.stages.tracking import Tracker
    from premortem.stages.train.guarded.stepper import Average, GradientFilter, Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a training run is guarded.

    Attributes:
        max_norm: gradients are clipped to this norm; the guard clips, so the loop need not.
        accumulate: micro-batches an optimiser step.
        save_every: optimiser steps between bundles; 0 chooses it so that saving stays under 4 % of the time,
            or 10 % while the later half of the run's steps has no bundle.
        probation: healthy steps until a bundle is good.
        keep: how many of the newest bundles are kept beside the good ones.
        prune_by_hand: leave old bundles to the ladder (a storage risk) instead of pruning at each save.
        intermediates: patterns, within the folder, of files that may be deleted when space runs out.
        resume: go on from the newest bundle that verifies, where there is one; ``"guard"`` resumes the guard's
            memory alone, for a loop that brings back its own weights.
        alone: decide for this process alone, though ``torch.distributed`` has others: they train something else.
        device_poll_s: seconds between two looks at a device that does not answer.
        memory_budget_gb: GiB that the run shall keep to, beside the limits that there are.
        weigh: what a batch's loss is a mean over, ``weigh(batch) → number`` (target tokens); its samples if left out.
        caches: what empties caches of the run's owner, each called without arguments.
        idle_models: models that stand idle and may leave memory until they are called.
    """

    max_norm: float = math.inf
    accumulate: int = 1
    save_every: int = 0
    probation: int = 30
    keep: int = 3
    prune_by_hand: bool = False
    intermediates: tuple[str, ...] = ()
    resume: bool | Literal["guard"] = True
    alone: bool = False
    device_poll_s: float = 60.0
    memory_budget_gb: float = math.inf
    weigh: Callable[[Any], float] | None = None
    caches: tuple[Callable[[], object], ...] = ()
    idle_models: tuple[nn.Module, ...] = ()

    def __post_init__(self) -> None:
        _require_type("max_norm", self.max_norm, (int, float), "a positive number")
        _require_type("memory_budget_gb", self.memory_budget_gb, (int, float), "a positive number of GiB")
        if not self.memory_budget_gb > 0:
            raise ConfigError(f"option memory_budget_gb: found {self.memory_budget_gb}, expected a positive number")
        if not self.max_norm > 0:
            raise ConfigError(f"option max_norm: found {self.max_norm}, expected a positive number; leave it out")
        _require_type("device_poll_s", self.device_poll_s, (int, float), "seconds")
        if not 0 <= self.device_poll_s < math.inf:
            raise ConfigError(f"option device_poll_s: found {self.device_poll_s}, expected seconds, 0 or more")
        for name, least in (("accumulate", 1), ("save_every", 0), ("probation", 1), ("keep", 1)):
            value = getattr(self, name)
            _require_type(name, value, (int,), "a whole number")
            if value < least:
                raise ConfigError(f"option {name}: found {value}, expected a whole number of at least {least}")
        if self.resume not in (True, False, "guard"):
            raise ConfigError(f"option resume: found {self.resume!r}, expected True, False or 'guard'")
        if isinstance(self.intermediates, str):
            raise ConfigError(
                f"option intermediates: found the text {self.intermediates!r}, expected a tuple of patterns; "
                f"write ({self.intermediates!r},)"
            )

    @classmethod
    def of(cls, given: Options | None, named: Mapping[str, object]) -> Options:
        """The options, with single ones by keyword over them.

        Raises:
            ConfigError: for one that is unknown, with the closest match, or out of range.
        """
        known = [f.name for f in fields(cls)]
        for name in named:
            if name not in known:
                raise ConfigError(
                    f"guard.training: found the unknown option {name!r}, expected one of "
                    f"{', '.join(known)}{closest(name, known)}"
                )
        return replace(given or cls(), **named)  # type: ignore[arg-type]


@dataclass(slots=True)
class Guard:
    """Guards by a register: a file, a built-in's name, or nothing for ``default.yaml``.

    Raises:
        ConfigError: for a register that does not bind; the message has path, value and closest match.
    """

    register: str | Path = "default"
    ledger: Ledger | str | Path | None = None
    entries: tuple[str, ...] = ()
    """Only these entries, by id; all active ones when empty."""
    params: Mapping[str, Mapping[str, Scalar]] = field(default_factory=dict)
    """Parameters by risk id, over those of the register."""
    risks: str | Path | None = None
    """A folder with risks of your own, ``<stage>/<risk>/risk.py``, that no installed package brings."""
    file: RegisterFile = field(init=False)

    def __post_init__(self) -> None:
        if self.risks is not None:
            bring_risks(self.risks)
        self.file = _with_params(load_register(str(self.register)), self.params)
        for i, entry in enumerate(self.file.entries):
            if entry.status == "active":
                where = f"{self.file.register}: $.entries[{i}]"
                bind_ladder(entry, bind_risks(entry, where), where)

    @property
    def active(self) -> tuple[Entry, ...]:
        """The entries that run."""
        active = (e for e in self.file.entries if e.status == "active")
        return tuple(e for e in active if not self.entries or e.id in self.entries)

    def training(  # noqa: PLR0913 - all keyword-only: what moves with the optimiser, by name
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        scheduler: Schedule | None = None,
        scaler: torch.amp.GradScaler | None = None,
        ema: Average | None = None,
        gradient_filter: GradientFilter | None = None,
        state: Mapping[str, object] | None = None,
        checkpoints: str | Path | None = None,
        signals: tuple[Signal, ...] = (),
        controls: Mapping[str, Control] | None = None,
        witnesses: Mapping[str, str] | None = None,
        tracker: Tracker | None = None,
        options: Options | None = None,
        **overrides: object,
    ) -> GuardedTraining:
        """Guard a training run; use the result as a context manager.

        Args:
            model: any torch model.
            optimizer: any torch optimiser; LBFGS needs the second form, ``run.step(loss_fn, batch)``.
            scheduler, ema: stepped, updated by the run after each applied step and never on a skip.
            scaler: a gradient scaler, stepped through.
            gradient_filter: applied between the finite check and clipping.
            state: whatever else must roll back, by name; each with ``state_dict`` and ``load_state_dict``.
            checkpoints: a folder for bundles; without it there is nothing to restore, and the report says so.
            signals: the user's own, measured by ``run.note(name, value)``.
            controls: the user's own, by name: what rungs of the user's own risks turn.
            witnesses: by control, the signal that shows its value in force independently of ``Control.read``.
            tracker: of :func:`premortem.tracking.open`; each step's signals are logged to it, and it is watched.
            options: see :class:`Options`; single ones may be given by keyword.

        Raises:
            ConfigError: for what cannot be trained or is unknown; a folder that another run holds (on entering).
            StageError: for a folder or ledger that cannot be used, or bundles of which none verifies.
        """
        # torch takes seconds to import: only where something is trained
        from premortem.run.subject import Subject
        from premortem.run.training import GuardedTraining
        from premortem.stages.train.guarded.stepper import Companions

        chosen = Options.of(options, overrides)
        with_ = Companions(scheduler, scaler, ema, gradient_filter)
        folder = None if checkpoints is None else Path(checkpoints)
        subject = Subject(
            model, optimizer, with_, dict(state or {}), folder, signals, dict(controls or {}), dict(witnesses or {})
        )
        run = GuardedTraining(self, subject, chosen)
        if tracker is not None:
            from premortem.run.tracking import attach

            attach(self, run, tracker)
        return run

    def watching(self, workload: Workload, *, home: str | Path, **more: Any) -> Watch:
        """Guard a workload of your own; use the result by ``with``, or by ``async with`` in an event loop.

        Args:
            workload: signals to read and controls to turn (``premortem.core.workload.Workload``).
            home: a folder for the ledger; the same home and name go on with the same incidents.
            more: ``name``, ``probation``, ``patience_s``, ``most_waiting``, ``say``; see
                :class:`premortem.run.watching.Home`.

        Raises:
            ConfigError: an entry that does not bind to the workload, no entry for its kind, an unknown keyword;
                on entering, a home that another watch of this name holds.
            StageError: on entering, a home or ledger that cannot be used.
        """
        from premortem.run.home import Home
        from premortem.run.watching import Watch

        known = [f.name for f in fields(Home) if f.name != "folder"]
        for key in more:
            if key not in known:
                raise ConfigError(f"guard.watching: found the unknown keyword {key!r}, expected one of "
                                  f"{', '.join(known)}{closest(key, known)}")  # fmt: skip
        return Watch(self, workload, Home(folder=Path(home), **more))

    def data(
        self,
        *sets: str | Path | Source,
        cache: str | Path | None = None,
        patience: Patience | None = None,
    ) -> dict[str, ReadySet]:
        """Every data set that the run needs, whole and right, before anything is trained.

        ``guard.data("gsm8k", "boolq")["gsm8k"].dataset()`` is a ``datasets.Dataset`` of verified local files.

        Args:
            sets: names of the catalogue, ``owner/name`` at the hub, files of sets (``*.yaml``), or sources.
            cache: a folder; else ``$PREMORTEM_DATA``, else ``premortem/data`` in the user's cache folder.
            patience: how long one place is tried.

        Raises:
            ConfigError: for a set that is unknown, or a register that does not watch data.
            StageError: with one line for each set that is missing, after the ladder is spent; a cache that cannot
                be used.
        """
        from premortem.run.data import make_ready

        return make_ready(self, sets, cache, patience)


def _require_type(name: str, value: object, types: tuple[type, ...], expected: str) -> None:
    if isinstance(value, bool) or not isinstance(value, types):
        raise ConfigError(f"option {name}: found {value!r}, expected {expected}")


def _with_params(file: RegisterFile, params: Mapping[str, Mapping[str, Scalar]]) -> RegisterFile:
    if not params:
        return file

    def use(old: RiskUse) -> RiskUse:
        return msgspec.structs.replace(old, params={**old.params, **params.get(old.risk, {})})

    entries = [msgspec.structs.replace(e, risks=[use(r) for r in e.risks]) for e in file.entries]
    return msgspec.structs.replace(file, entries=entries)
