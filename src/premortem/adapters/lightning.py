"""Guards a Lightning ``Trainer`` by one callback: ``Trainer(..., callbacks=[GuardCallback("register.yaml")])``.

How it holds a step back: Lightning hands the optimiser a closure (forward, backward, clipping) and steps it whatever
a callback says, so the callback replaces that one method of the optimiser while training lasts. The closure runs
first; the gradient is judged; then Lightning's optimiser is called, or nothing is. The module's hooks for clipping
and for schedules are held in the same way: the Trainer would clip before anyone could look, and one NaN in the norm
makes every gradient NaN.

Covered: skips (neither optimiser nor schedules by step move), the Trainer's clipping by norm or by value or by the
module's own ``configure_gradient_clipping``, accumulation, the factor on the learning rate, restores of model,
optimiser and schedules within the run, stopping, detectors in Lightning's checkpoints, resuming by ``ckpt_path``.
Not covered, and reported: Lightning does not remember skipped batches; schedules by epoch or by metric are stepped
by Lightning; its weight averages do not roll back; under fp16 the scaler decides on overflows. Refused, in one line:
manual optimisation (also several optimisers), LBFGS, strategies other than one device and DDP. Several processes
under DDP decide together (docs/distributed.md).
Works under both names, ``lightning`` and ``pytorch_lightning``. Read against 2.6.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from premortem.adapters.attached import Attached
from premortem.core.errors import ConfigError
from premortem.stages.train.guarded.stepper import OVERFLOW, Stepped

if TYPE_CHECKING:
    from lightning.pytorch import Callback

    from premortem.run.training import GuardedTraining
elif "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules:
    from pytorch_lightning import Callback
else:
    try:
        from lightning.pytorch import Callback
    except ImportError:
        from pytorch_lightning import Callback

_STRATEGIES = ("SingleDeviceStrategy", "DDPStrategy")


class GuardCallback(Callback):
    """Guards every training (``fit``) of the Trainer that it is given to.

    Args:
        register: a register's file, or a built-in's name.
        entries: only these, by id; all active ones when empty.
        ledger: a ledger or its path; ``ledger.db`` beside the bundles when left out.
        checkpoints: where the guard keeps its bundles; ``premortem`` in the Trainer's root folder when left out.
        options: those of ``Guard.training``, except ``max_norm`` and ``accumulate``, which are the Trainer's.

    Raises:
        ConfigError: for a register that does not bind, an unknown option, or a training that cannot be guarded.
    """

    def __init__(
        self, register: str | Path = "default", *, entries: tuple[str, ...] = (), ledger: Any = None,
        checkpoints: str | Path | None = None, **options: object,
    ) -> None:  # fmt: skip
        self._attached = Attached(
            "GuardCallback", "Trainer",
            register=register, entries=entries, ledger=ledger, checkpoints=checkpoints, options=options,
        )  # fmt: skip
        self._saved: dict[str, Any] | None = None
        self._is_stepping = False
        self._clip: Callable[[], object] | None = None

    @property
    def run(self) -> GuardedTraining | None:
        """The guarded run, while training lasts."""
        return self._attached.run

    # --- what the Trainer calls --------------------------------------------------------------

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Open the guarded run; where Lightning resumed from a checkpoint of its own, that decides the step."""
        _require_guardable(trainer, pl_module)
        schedules = {f"scheduler_{i}": c.scheduler for i, c in enumerate(trainer.lr_scheduler_configs)}
        by_norm = _clips_by_norm(trainer, pl_module)
        run = self._attached.open(
            pl_module, trainer.optimizers[0], dict(schedules), beside=Path(trainer.default_root_dir) / "premortem",
            max_norm=float(trainer.gradient_clip_val) if by_norm else math.inf, resumed_at=trainer.global_step,
        )  # fmt: skip
        saved, self._saved = self._saved, None
        if trainer.global_step:
            self._resume(run, saved)
        self._report_gaps(run, trainer)
        self._attached.replace_step(trainer.optimizers[0], lambda original: self._held(run, original))
        self._hold_clipping(pl_module, by_norm=by_norm)
        self._hold_schedules(trainer, pl_module)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """A new batch: whether it ends in a step is not known yet."""
        self._is_stepping = False

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        """Hear the micro-batch's loss, undoing what Lightning divided and scaled it by."""
        scaler = _scaler(trainer)
        whole = loss.detach() * trainer.accumulate_grad_batches
        self._attached.hear(whole if scaler is None else whole / scaler.get_scale())

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """The last micro-batch of a step is through; under a scaler the optimiser may yet not be called."""
        self._is_stepping = True

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Show the kernel the step; rungs are carried out here, after the schedules' step."""
        attached = self._attached
        if self._is_stepping and attached.stepped is None and (losses := attached.take()):
            loss = sum(float(x) for x in losses) / len(losses)
            attached.stepped = Stepped(loss, None, False, OVERFLOW if math.isfinite(loss) else "not finite")
        if attached.observe():
            trainer.should_stop = True
            trainer.fit_loop.min_epochs = trainer.fit_loop.epoch_loop.min_steps = None  # they would hold the stop back

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Close the run."""
        self._attached.close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Close the run of a training that failed; after SIGTERM, which Lightning hears, with a bundle saved."""
        self._attached.close(None if type(exception).__name__ == "SIGTERMException" else exception)

    def state_dict(self) -> dict[str, Any]:
        """What Lightning's checkpoint keeps: plain numbers and text, so that ``weights_only`` loads them."""
        run = self.run
        if run is None:
            return {}
        return {"step": run.step_number, "ticks": run.ticks, "detectors": run.engine.observer.state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over :meth:`state_dict` when training starts."""
        self._saved = state_dict

    # --- how it holds back -------------------------------------------------------------------

    def _held(self, run: GuardedTraining, original: Callable[..., Any]) -> Callable[..., Any]:
        def clip_and_step() -> None:
            clip, self._clip = self._clip, None
            if clip is not None:
                clip()
            original()

        def step(closure: Callable[[], Any] | None = None) -> Any:
            result = None if closure is None else closure()
            losses = self._attached.take()
            if losses:
                self._attached.stepped = run.stepper.finish(losses, clip_and_step)
            else:
                run.report_gap("a training_step returned no loss: that step was not seen")
                original()
            return result

        return step

    def _hold_clipping(self, module: Any, *, by_norm: bool) -> None:
        """By norm the guard clips, with the norm that it has; anything else is called once the gradient is judged."""
        original = module.configure_gradient_clipping

        def hold(*given: Any, **named: Any) -> None:
            self._clip = None if by_norm else (lambda: original(*given, **named))

        self._attached.replace(module, "configure_gradient_clipping", hold)

    def _hold_schedules(self, trainer: Any, module: Any) -> None:
        by_step = [
            c.scheduler for c in trainer.lr_scheduler_configs if c.interval == "step" and not c.reduce_on_plateau
        ]
        original = module.lr_scheduler_step

        def hold(scheduler: Any, metric: Any) -> None:
            stepped = self._attached.stepped
            was_skipped = self._is_stepping and (stepped is None or not stepped.applied)
            if not (was_skipped and any(scheduler is s for s in by_step)):
                original(scheduler, metric)

        self._attached.replace(module, "lr_scheduler_step", hold)

    def _resume(self, run: GuardedTraining, saved: dict[str, Any] | None) -> None:
        if saved is not None:
            run.keeping.step, run.ticks = int(saved["step"]), int(saved["ticks"])
        detectors = None if saved is None else saved["detectors"]
        self._attached.resume_detectors(detectors, "the guard's state in Lightning's checkpoint")

    def _report_gaps(self, run: GuardedTraining, trainer: Any) -> None:
        run.report_gap("Lightning draws the batches: those skipped now may come again after a resume")
        if _scaler(trainer) is not None:
            run.report_gap("under fp16 the scaler decides on overflows; no schedule by step moves with them")
        if any(c.interval != "step" or c.reduce_on_plateau for c in trainer.lr_scheduler_configs):
            run.report_gap("Lightning steps schedules by epoch or by metric, after skips as well")
        if any("WeightAveraging" in type(c).__name__ for c in trainer.callbacks):
            run.report_gap("Lightning's weight average does not roll back with the weights, and is updated after skips")


def _scaler(trainer: Any) -> Any:
    return getattr(trainer.precision_plugin, "scaler", None)


def _clips_by_norm(trainer: Any, module: Any) -> bool:
    """Whether Lightning would clip by norm, in its own way."""
    is_own = type(module).configure_gradient_clipping.__qualname__ != "LightningModule.configure_gradient_clipping"
    how = trainer.gradient_clip_algorithm
    return bool(trainer.gradient_clip_val) and not is_own and getattr(how, "value", how) in (None, "norm")


def _require_guardable(trainer: Any, module: Any) -> None:
    if not module.automatic_optimization:
        raise ConfigError(
            "GuardCallback: found manual optimisation, expected automatic: the guard cannot know what is one step of "
            "several optimisers; guard a loop of your own by guard.training(...) and run.step"
        )
    if isinstance(trainer.optimizers[0], torch.optim.LBFGS):
        raise ConfigError(
            "GuardCallback: found LBFGS, expected an optimiser that takes its gradients as they are: it evaluates the "
            "loss itself; use run.step(loss_fn, batch) in a loop of your own"
        )
    if type(trainer.strategy).__name__ not in _STRATEGIES:
        raise ConfigError(
            f"GuardCallback: found {type(trainer.strategy).__name__}, expected {' or '.join(_STRATEGIES)}: others step "
            "or shard for themselves; guard a loop of your own (docs/distributed.md)"
        )
