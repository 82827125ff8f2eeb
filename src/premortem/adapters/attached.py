"""What all Trainers' callbacks share: one guarded run, the losses that it heard, all that is undone at its end."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, nn

import premortem
from premortem.core.errors import ConfigError
from premortem.stages.train.guarded.stepper import Stepped

if TYPE_CHECKING:
    import torch

    from premortem.run.training import GuardedTraining

_THEIRS = ("max_norm", "accumulate")


class Attached:
    """A guarded run inside a loop of others; open while training lasts, and again for the next training.

    Args:
        owner: the callback's name in messages; ``theirs``: where its Trainer's clipping and accumulation are set.
        register, entries, ledger: as :class:`premortem.Guard` takes them.
        checkpoints: where the guard keeps its bundles; the callback chooses when left out.
        options: those of ``Guard.training``, except ``max_norm`` and ``accumulate``, which are the Trainer's.

    Raises:
        ConfigError: for a register that does not bind, or an option that is the Trainer's.
    """

    def __init__(  # noqa: PLR0913 - a callback hands all of it over at once
        self, owner: str, theirs: str, *, register: str | Path, entries: tuple[str, ...], ledger: Any,
        checkpoints: str | Path | None, options: dict[str, object],
    ) -> None:  # fmt: skip
        for name in _THEIRS:
            if name in options:
                raise ConfigError(f"{owner}: found the option {name!r}; set it in the {theirs} instead")
        self.guard = premortem.Guard(register, ledger=ledger, entries=entries)
        self.run: GuardedTraining | None = None
        self.stepped: Stepped | None = None
        self._folder = None if checkpoints is None else Path(checkpoints)
        self._options = options
        self._heard: list[Tensor] = []
        self._undo: list[Callable[[], object]] = []

    def open(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, object], *,
        beside: Path, max_norm: float, resumed_at: int,
    ) -> GuardedTraining:  # fmt: skip
        """Open the run. ``resumed_at``: the Trainer's own step, 0 where it begins; its weights are its own affair."""
        self.close()
        run = self.guard.training(
            model, optimizer, state=state, checkpoints=self._folder or beside, max_norm=max_norm,
            **cast("dict[str, Any]", {"resume": "guard" if resumed_at else False, **self._options}),
        )  # fmt: skip
        self.run = run.__enter__()
        if resumed_at:
            run.keeping.step = run.ticks = resumed_at
        return run

    def hear(self, loss: Tensor) -> None:
        """A micro-batch's mean loss."""
        self._heard.append(loss.detach())

    def take(self) -> list[Tensor]:
        """The losses of the step's micro-batches; they are then forgotten."""
        heard, self._heard = self._heard, []
        return heard

    def observe(self) -> bool:
        """Show the kernel the step that was made, if any; returns whether the run was stopped."""
        run, stepped, self.stepped = self.run, self.stepped, None
        if run is None or stepped is None:
            return False
        run.observe(stepped)
        return run.stopped

    def replace_step(self, optimizer: Any, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        """Replace ``optimizer.step`` until the end by ``make(original)``.

        It keeps the mark of torch's schedulers, which look whether somebody replaced the method behind their back.
        """
        original = optimizer.step
        self.replace(optimizer, "step", functools.wraps(original)(make(original)))

    def replace(self, thing: Any, name: str, by: object) -> None:
        """Give this one object another method until the end of the training."""
        original, is_own = getattr(thing, name), name in vars(thing)
        setattr(thing, name, by)
        self.at_end(lambda: setattr(thing, name, original) if is_own else delattr(thing, name))

    def at_end(self, undo: Callable[[], object]) -> None:
        """Call this when the run is closed, newest first."""
        self._undo.append(undo)

    def close(self, error: BaseException | None = None) -> None:
        """Undo everything and close the run. Raises ``SystemExit`` (143) where SIGTERM ended it."""
        while self._undo:
            self._undo.pop()()
        run, self.run = self.run, None
        self._heard.clear()
        self.stepped = None
        if run is not None:
            run.__exit__(None if error is None else type(error), error, None)

    def resume_detectors(self, saved: object, where: str) -> None:
        """Give the detectors their windows back; ``None`` or damaged ones are reported and begin anew."""
        assert self.run is not None
        if not isinstance(saved, dict):
            self.run.report_gap(f"{where} cannot be read: the detectors begin anew")
        else:
            self.run.engine.observer.load(cast("dict[str, object]", saved))
