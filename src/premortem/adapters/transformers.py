"""Guards a HuggingFace ``Trainer`` by one callback: ``Trainer(..., callbacks=[GuardCallback("register.yaml")])``.

How it holds a step back: the Trainer calls ``optimizer.step()`` whatever a callback says, so the callback wraps
that one method of accelerate's optimiser while training lasts. A gradient that is not finite never reaches the
optimiser, and accelerate is told that the step was skipped, so the Trainer leaves its scheduler alone, too. Clipping
is done there as well, with the Trainer's own ``max_grad_norm``: the Trainer would clip first, and one NaN in the
norm makes every gradient NaN.

Covered: skips, the factor on the learning rate, clipping, restores of model, optimiser and scheduler within the run,
stopping, the guard's memory over ``resume_from_checkpoint``.
Not covered, and reported: batches skipped now are not remembered by the Trainer's data position; under fp16 the
scaler decides on overflows; schedules by metric (``ReduceLROnPlateau``) are stepped by the Trainer. Several
processes are refused: each would decide for itself.
Read against transformers 5.23 and accelerate 1.15.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

import premortem
from premortem.core.errors import ConfigError
from premortem.stages.train.guarded.stepper import Stepped

if TYPE_CHECKING:
    from premortem.run.training import GuardedTraining

DETECTORS = "premortem.json"
"""In each of the Trainer's checkpoints: the windows of the detectors at that step."""


class GuardCallback(TrainerCallback):
    """Guards every training of the Trainer that it is given to.

    Args:
        register: a register's file, or a built-in's name.
        entries: only these, by id; all active ones when empty.
        ledger: a ledger or its path; ``ledger.db`` beside the bundles when left out.
        checkpoints: where the guard keeps its bundles; ``premortem`` in the Trainer's output folder when left out.
        options: those of ``Guard.training``, except ``max_norm`` and ``accumulate``, which are the Trainer's.

    Raises:
        ConfigError: for a register that does not bind, an unknown option, or a Trainer of several processes.
    """

    def __init__(
        self, register: str | Path = "default", *, entries: tuple[str, ...] = (), ledger: Any = None,
        checkpoints: str | Path | None = None, **options: object,
    ) -> None:  # fmt: skip
        for name in ("max_norm", "accumulate"):
            if name in options:
                raise ConfigError(f"GuardCallback: found the option {name!r}; set it in the TrainingArguments instead")
        self.guard = premortem.Guard(register, ledger=ledger, entries=entries)
        self.run: GuardedTraining | None = None
        self._folder = None if checkpoints is None else Path(checkpoints)
        self._options = options
        self._heard: list[Tensor] = []
        self._max_norm = 0.0
        self._stepped: Stepped | None = None
        self._undo: list[Callable[[], object]] = []

    # --- what the Trainer calls --------------------------------------------------------------

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any
    ) -> None:  # fmt: skip
        """Open the guarded run; the Trainer's own checkpoint, where it resumed from one, decides the step."""
        self._close()
        _require_one_process(args)
        model, optimizer, scheduler = parts["model"], parts["optimizer"], parts["lr_scheduler"]
        run = self.guard.training(
            model, getattr(optimizer, "optimizer", optimizer),
            state={} if scheduler is None else {"scheduler": scheduler},
            checkpoints=self._folder or Path(str(args.output_dir)) / "premortem",
            max_norm=args.max_grad_norm if args.max_grad_norm > 0 else float("inf"),
            **cast("dict[str, Any]", {"resume": "guard" if state.global_step else False, **self._options}),
        )  # fmt: skip
        self.run = run.__enter__()
        if state.global_step:
            run.keeping.step = run.ticks = state.global_step
            self._resume_detectors(run, _checkpoint_of(args, state))
        self._report_gaps(run, args, scheduler)
        self._listen(run, model)
        self._hold_back(run, optimizer)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any
    ) -> None:  # fmt: skip
        """Keep the Trainer from clipping before anyone could look at the gradient."""
        self._heard.clear()
        if args.max_grad_norm > 0:
            self._max_norm, args.max_grad_norm = args.max_grad_norm, 0.0

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any
    ) -> None:  # fmt: skip
        """The Trainer has passed its clipping: its arguments are what the user wrote again."""
        self._give_back(args)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any
    ) -> None:  # fmt: skip
        """Show the kernel the step; rungs are carried out here, after the scheduler's step."""
        run, stepped = self.run, self._stepped
        if run is None or stepped is None:
            return
        self._stepped = None
        run.observe(stepped)
        if run.stopped:
            control.should_training_stop = True

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any
    ) -> None:  # fmt: skip
        """Put the detectors' windows into the Trainer's checkpoint."""
        folder = _checkpoint_of(args, state)
        if self.run is not None and folder.is_dir():
            (folder / DETECTORS).write_text(json.dumps(self.run.engine.observer.state()))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any
    ) -> None:  # fmt: skip
        """Close the run. After SIGTERM the process ends here, with exit code 143."""
        self._give_back(args)
        self._close()

    # --- how it holds back -------------------------------------------------------------------

    def _hold_back(self, run: GuardedTraining, optimizer: Any) -> None:
        original, own = optimizer.step, "step" in vars(optimizer)
        scaler = getattr(optimizer, "scaler", None)
        is_wrapped = hasattr(optimizer, "optimizer")

        @functools.wraps(original)  # with the mark of torch's schedulers, which look whether somebody replaced it
        def step(closure: None = None) -> None:
            if is_wrapped and not optimizer.gradient_state.sync_gradients:
                original(closure)
                return
            if not self._heard:
                raise ConfigError(
                    "GuardCallback: found no loss in the output of the model's forward pass, expected one; give the "
                    "batch its labels, or call callback.hear(loss) in your own compute_loss"
                )
            losses, self._heard = self._heard, []
            if scaler is not None and not _all_finite(run):
                original(closure)  # the scaler's own trade: it calls no optimiser and lowers its scale
                self._stepped = Stepped(
                    sum(float(x) for x in losses) / len(losses), None, False, "the scaler overflowed"
                )
                return
            if is_wrapped:
                optimizer._is_overflow = False
            self._stepped = run.stepper.finish(losses, original)
            if is_wrapped and not self._stepped.applied:
                optimizer._is_overflow = True  # what the Trainer asks before it steps its scheduler

        optimizer.step = step
        self._undo.append(lambda: setattr(optimizer, "step", original) if own else delattr(optimizer, "step"))

    def hear(self, loss: Tensor) -> None:
        """Tell the guard of a micro-batch's loss, where the model's own output does not carry it."""
        self._heard.append(loss.detach())

    def _listen(self, run: GuardedTraining, model: nn.Module) -> None:
        def hear(module: nn.Module, _: Any, given: Mapping[str, Any], output: Any) -> None:
            loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
            if module.training and isinstance(loss, Tensor) and loss.numel() == 1:
                self.hear(loss)

        self._undo.append(model.register_forward_hook(hear, with_kwargs=True).remove)

    def _give_back(self, args: TrainingArguments) -> None:
        if self._max_norm:
            args.max_grad_norm, self._max_norm = self._max_norm, 0.0

    def _close(self) -> None:
        while self._undo:
            self._undo.pop()()
        run, self.run = self.run, None
        self._heard.clear()
        if run is not None:
            run.__exit__(None, None, None)

    def _resume_detectors(self, run: GuardedTraining, folder: Path) -> None:
        try:
            saved = json.loads((folder / DETECTORS).read_text())
        except (OSError, ValueError):
            run.report_gap(f"{folder / DETECTORS} cannot be read: the detectors begin anew")
        else:
            run.engine.observer.load(cast("dict[str, object]", saved))

    def _report_gaps(self, run: GuardedTraining, args: TrainingArguments, scheduler: object) -> None:
        run.report_gap("the Trainer draws the batches: those skipped now may come again after a resume")
        if args.fp16:
            run.report_gap("under fp16 the scaler decides on overflows, and the gradient filter's norm is its own")
        if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            run.report_gap("the Trainer steps a schedule by metric at each evaluation, after skips as well")


def _all_finite(run: GuardedTraining) -> bool:
    gradients = (p.grad for p in run.stepper.model.parameters() if p.grad is not None)
    return all(bool(torch.isfinite(g).all()) for g in gradients)


def _checkpoint_of(args: TrainingArguments, state: TrainerState) -> Path:
    given = args.resume_from_checkpoint
    name = f"checkpoint-{state.global_step}"
    if isinstance(given, str) and Path(given).name == name:
        return Path(given)
    return Path(str(args.output_dir)) / name


def _require_one_process(args: TrainingArguments) -> None:
    if args.world_size > 1 or args.n_gpu > 1:
        raise ConfigError(
            f"GuardCallback: found {args.world_size} processes and {args.n_gpu} devices in each, expected one of each: "
            "every process would decide for itself; guard a run of one process"
        )
