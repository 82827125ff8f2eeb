"""Guards a HuggingFace ``Trainer`` by one callback: ``Trainer(..., callbacks=[GuardCallback("register.yaml")])``.

How it holds a step back: the Trainer calls ``optimizer.step()`` whatever a callback says, so the callback wraps
that one method of accelerate's optimiser while training lasts. A gradient that is not finite never reaches the
optimiser, and accelerate is told that the step was skipped, so the Trainer leaves its scheduler alone, too. Clipping
is done there as well, with the Trainer's own ``max_grad_norm``: the Trainer would clip first, and one NaN in the
norm makes every gradient NaN.

Covered: skips, the factor on the learning rate, clipping, restores of model, optimiser and scheduler within the run,
stopping, the guard's memory over ``resume_from_checkpoint``.
Several processes under DDP decide together (docs/distributed.md).
Not covered, and reported: batches skipped now are not remembered by the Trainer's data position; under fp16 the
scaler decides on overflows; schedules by metric (``ReduceLROnPlateau``) are stepped by the Trainer. FSDP, DeepSpeed
and several devices in one process are refused.
Read against transformers 5.23 and accelerate 1.15.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.training_args import ParallelMode

from premortem.adapters.attached import Attached
from premortem.core.errors import ConfigError
from premortem.stages.train.guarded.stepper import OVERFLOW, Stepped

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
        ConfigError: for a register that does not bind, an unknown option, or a Trainer that shards its model.
    """

    def __init__(
        self, register: str | Path = "default", *, entries: tuple[str, ...] = (), ledger: Any = None,
        checkpoints: str | Path | None = None, **options: object,
    ) -> None:  # fmt: skip
        self._attached = Attached(
            "GuardCallback", "TrainingArguments",
            register=register, entries=entries, ledger=ledger, checkpoints=checkpoints, options=options,
        )  # fmt: skip
        self._max_norm = 0.0

    @property
    def run(self) -> GuardedTraining | None:
        """The guarded run, while training lasts."""
        return self._attached.run

    # --- what the Trainer calls --------------------------------------------------------------

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any
    ) -> None:  # fmt: skip
        """Open the guarded run; the Trainer's own checkpoint, where it resumed from one, decides the step."""
        _require_guardable(args)
        model, optimizer, scheduler = parts["model"], parts["optimizer"], parts["lr_scheduler"]
        run = self._attached.open(
            model, getattr(optimizer, "optimizer", optimizer), {} if scheduler is None else {"scheduler": scheduler},
            beside=Path(str(args.output_dir)) / "premortem",
            max_norm=args.max_grad_norm if args.max_grad_norm > 0 else float("inf"), resumed_at=state.global_step,
        )  # fmt: skip
        if state.global_step:
            path = _checkpoint_of(args, state) / DETECTORS
            self._attached.resume_detectors(run.company.peers.by_first(lambda: _read(path)), str(path))
        self._report_gaps(run, args, scheduler)
        self._listen(model)
        self._hold_back(run, optimizer)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any
    ) -> None:  # fmt: skip
        """Keep the Trainer from clipping before anyone could look at the gradient."""
        self._attached.take()
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
        if self._attached.observe():
            control.should_training_stop = True

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any
    ) -> None:  # fmt: skip
        """Put the detectors' windows into the Trainer's checkpoint."""
        folder = _checkpoint_of(args, state)
        if self.run is not None and state.is_world_process_zero and folder.is_dir():
            (folder / DETECTORS).write_text(json.dumps(self.run.engine.observer.state()))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any
    ) -> None:  # fmt: skip
        """Close the run. After SIGTERM the process ends here, with exit code 143."""
        self._give_back(args)
        self._attached.close()

    # --- how it holds back -------------------------------------------------------------------

    def _hold_back(self, run: GuardedTraining, optimizer: Any) -> None:
        attached, scaler = self._attached, getattr(optimizer, "scaler", None)
        is_wrapped = hasattr(optimizer, "optimizer")

        def held(original: Callable[..., Any]) -> Callable[..., None]:
            def step(closure: None = None) -> None:
                if is_wrapped and not optimizer.gradient_state.sync_gradients:
                    original(closure)
                    return
                losses = attached.take()
                if not losses:
                    raise ConfigError(
                        "GuardCallback: found no loss in the output of the model's forward pass, expected one; give "
                        "the batch its labels, or call callback.hear(loss) in your own compute_loss"
                    )
                if scaler is not None and not _all_finite(run):
                    original(closure)  # the scaler's own trade: it calls no optimiser and lowers its scale
                    attached.stepped = Stepped(sum(float(x) for x in losses) / len(losses), None, False, OVERFLOW)
                    return
                if is_wrapped:
                    optimizer._is_overflow = False
                attached.stepped = run.stepper.finish(losses, original)
                if is_wrapped and not attached.stepped.applied:
                    optimizer._is_overflow = True  # what the Trainer asks before it steps its scheduler

            return step

        attached.replace_step(optimizer, held)

    def hear(self, loss: Tensor) -> None:
        """Tell the guard of a micro-batch's loss, where the model's own output does not carry it."""
        self._attached.hear(loss)

    def _listen(self, model: nn.Module) -> None:
        def hear(module: nn.Module, _: Any, given: Mapping[str, Any], output: Any) -> None:
            loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
            if module.training and isinstance(loss, Tensor) and loss.numel() == 1:
                self.hear(loss)

        self._attached.at_end(model.register_forward_hook(hear, with_kwargs=True).remove)

    def _give_back(self, args: TrainingArguments) -> None:
        if self._max_norm:
            args.max_grad_norm, self._max_norm = self._max_norm, 0.0

    def _report_gaps(self, run: GuardedTraining, args: TrainingArguments, scheduler: object) -> None:
        run.report_gap("the Trainer draws the batches: those skipped now may come again after a resume")
        if args.fp16:
            run.report_gap("under fp16 the scaler decides on overflows, and the gradient filter's norm is its own")
        if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            run.report_gap("the Trainer steps a schedule by metric at each evaluation, after skips as well")


def _all_finite(run: GuardedTraining) -> bool:
    gradients = (p.grad for p in run.stepper.model.parameters() if p.grad is not None)
    return all(bool(torch.isfinite(g).all()) for g in gradients)


def _read(path: Path) -> object:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _checkpoint_of(args: TrainingArguments, state: TrainerState) -> Path:
    given = args.resume_from_checkpoint
    name = f"checkpoint-{state.global_step}"
    if isinstance(given, str) and Path(given).name == name:
        return Path(given)
    return Path(str(args.output_dir)) / name


def _require_guardable(args: TrainingArguments) -> None:
    sharded = [name for name in ("fsdp", "deepspeed") if getattr(args, name, None)]
    if args.n_gpu > 1 or (args.world_size > 1 and (sharded or args.parallel_mode != ParallelMode.DISTRIBUTED)):
        how = f"{args.world_size} processes ({', '.join(sharded) or args.parallel_mode.value})"
        raise ConfigError(
            f"GuardCallback: found {how} with {args.n_gpu} devices each, expected one device each and, of several "
            "processes, plain DDP (torchrun); see docs/distributed.md"
        )
