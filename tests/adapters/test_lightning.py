"""One callback guards a real Lightning Trainer: skips, clipping, the learning rate, restores, stopping, resuming."""

from __future__ import annotations

import math
import os
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import pytorch_lightning
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from premortem.adapters.lightning import GuardCallback
from premortem.core.errors import ConfigError
from premortem.core.evidence import Record
from premortem.stages.train.checkpoint import Shelf
from premortem.stages.train.guarded.requests import digest

# Lightning's own, about loggers, workers, checkpoints in a folder that is there, and its use of old torch names.
pytestmark = pytest.mark.filterwarnings(
    "ignore::lightning.fabric.utilities.warnings.PossibleUserWarning",
    "ignore::pytorch_lightning.utilities.warnings.PossibleUserWarning",
    "ignore:.*Checkpoint directory.*:UserWarning",
    "ignore:.*LeafSpec.*:FutureWarning",
    "ignore:.*isinstance.treespec, LeafSpec.*:DeprecationWarning",
)


class Net(pl.LightningModule):
    """A regression as people write it; the fault sits in a hook on its gradient."""

    def __init__(self, *, by_epoch: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 24), nn.Tanh(), nn.Dropout(0.1), nn.Linear(24, 1))
        self.interval = "epoch" if by_epoch else "step"
        self.nan: range = range(0)
        self.seen: dict[int, list[Any]] = {}
        self.losses: list[float] = []
        next(self.parameters()).register_hook(lambda g: g * math.nan if self.trainer.global_step in self.nan else g)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = nn.functional.mse_loss(self.net(batch[0]), batch[1])
        self.losses.append(float(loss.detach()))
        return loss

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        last = [s.state_dict()["last_epoch"] for s in _schedulers(self)]
        self.seen[self.trainer.global_step] = [digest(self.state_dict()), *last]

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=3e-3)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: min(1.0, (n + 1) / 5))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": self.interval}}


def _schedulers(module: Any) -> list[Any]:
    found = module.lr_schedulers()
    return found if isinstance(found, list) else [found]


def data() -> DataLoader[Any]:
    made = torch.Generator().manual_seed(3)
    x = torch.randn(256, 6, generator=made)
    order = torch.Generator().manual_seed(4)
    return DataLoader(TensorDataset(x, torch.sin(x.sum(1, keepdim=True))), 16, shuffle=True, generator=order)


def trainer(folder: Path, callbacks: list[Any], *, of: Any = pl, **more: Any) -> Any:
    torch.manual_seed(0)
    given: dict[str, Any] = {
        "default_root_dir": str(folder), "max_steps": 60, "accelerator": "cpu", "devices": 1, "logger": False,
        "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
        "gradient_clip_val": 0.5,
    }  # fmt: skip
    return of.Trainer(callbacks=callbacks, **{**given, **more})


class Ear(pl.Callback):
    """Listens to the guard's records; ``then`` is called at each batch's end, after the guard."""

    def __init__(self, guard: GuardCallback, then: Callable[[Any, Any], None] | None = None) -> None:
        self.guard, self.heard, self.then = guard, list[Record](), then

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        assert self.guard.run is not None
        self.guard.run.driver.listen(self.heard.append)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if self.then is not None:
            self.then(trainer, pl_module)

    @property
    def turned(self) -> list[str]:
        return [str(r.data["rung"]) for r in self.heard if r.event == "intent" and r.data.get("verb") == "turn"]


def bits(module: Any, of: Any) -> list[int]:
    states = of.optimizers[0].state_dict()["state"].values()
    return [digest(module.state_dict()), *(digest(dict(s)) for s in states)]


@pytest.mark.parametrize(
    "how",
    [
        {"accumulate_grad_batches": 1},
        {"accumulate_grad_batches": 3},  # 16 batches an epoch: Lightning steps on the last one, too
        {"gradient_clip_algorithm": "value", "gradient_clip_val": 0.01},
        {"gradient_clip_val": None},
        {"precision": "bf16-mixed"},
    ],
)
def test_a_healthy_training_under_guard_is_bit_identical(how: dict[str, Any], tmp_path: Path) -> None:
    plain, guarded = Net(), Net()
    first = trainer(tmp_path / "plain", [], **how)
    first.fit(plain, data())
    callback = GuardCallback()
    ear = Ear(callback)
    second = trainer(tmp_path / "guarded", [callback, ear], **how)
    second.fit(guarded, data())
    assert bits(guarded, second) == bits(plain, first)
    assert guarded.losses == plain.losses
    assert guarded.seen == plain.seen
    assert not any(r.event in ("opened", "guard_fault") for r in ear.heard)


class OwnClipping(Net):
    """Clips in its own way, and may ask for it by the hook that Lightning has for that."""

    def configure_gradient_clipping(self, optimizer: Any, gradient_clip_val: Any = None, *_: Any, **__: Any) -> None:
        torch.nn.utils.clip_grad_norm_(self.parameters(), 0.01)


def test_the_modules_own_clipping_is_kept_and_comes_after_the_judgement(tmp_path: Path) -> None:
    plain, guarded = OwnClipping(), OwnClipping()
    trainer(tmp_path / "plain", [], gradient_clip_val=None).fit(plain, data())
    guarded.nan = range(60, 61)
    callback = GuardCallback()
    ear = Ear(callback)
    trainer(tmp_path / "guarded", [callback, ear], gradient_clip_val=None, max_steps=62).fit(guarded, data())
    assert guarded.seen[60][0] == digest(plain.state_dict())
    assert guarded.seen[61] == guarded.seen[60]
    assert "skip the offending batch" in ear.turned


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("at", [0, 30])
def test_a_gradient_that_is_not_finite_reaches_neither_weights_nor_schedule(
    at: int, accumulate: int, tmp_path: Path
) -> None:
    module, callback = Net(), GuardCallback()
    module.nan = range(at, at + 1)
    ear = Ear(callback)
    trained = trainer(tmp_path, [callback, ear], accumulate_grad_batches=accumulate)
    trained.fit(module, data())
    assert module.seen[at + 1] == module.seen[at]
    assert module.seen[at + 2] != module.seen[at + 1]
    assert all(torch.isfinite(p).all() for p in module.parameters())
    assert trained.global_step == 60
    assert "skip the offending batch" in ear.turned

    unguarded = Net()
    unguarded.nan = range(at, at + 1)
    trainer(tmp_path / "plain", [], accumulate_grad_batches=accumulate).fit(unguarded, data())
    assert not all(torch.isfinite(p).all() for p in unguarded.parameters())


def test_a_learning_rate_far_too_high_is_answered_around_the_step(tmp_path: Path) -> None:
    def fault(of: Any, module: Any) -> None:
        if of.global_step in (150, 260):
            _schedulers(module)[0].base_lrs = [3.0 if of.global_step == 150 else 3e-3]

    module, callback = Net(), GuardCallback(save_every=20)
    ear = Ear(callback, fault)
    trainer(tmp_path, [callback, ear], max_steps=400).fit(module, data())
    assert set(ear.turned) & {"warm up", "cut the learning rate", "restore the last good checkpoint"}
    assert all(torch.isfinite(p).all() for p in module.parameters())
    assert any(r.event == "good" for r in ear.heard)


def test_a_training_that_cannot_be_saved_is_stopped_with_its_good_bundle_kept(tmp_path: Path) -> None:
    module, callback = Net(), GuardCallback(save_every=20)
    module.nan = range(100, 10_000)
    reasons: list[str] = []

    def note(of: Any, _: Any) -> None:
        assert callback.run is not None
        reasons.append(callback.run.stop_reason)

    # what the user asked for at least does not hold back a stop
    trained = trainer(tmp_path, [callback, Ear(callback, note)], max_steps=1000, min_steps=900, min_epochs=50)
    trained.fit(module, data())
    assert trained.global_step < 900
    assert reasons[-1]
    assert all(torch.isfinite(p).all() for p in module.parameters())
    assert Shelf(tmp_path / "premortem", own=False).last_good() is not None


def test_a_restore_brings_back_model_optimiser_and_schedule_within_the_run(tmp_path: Path) -> None:
    class Breaker(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            if trainer.global_step == 150:
                with torch.no_grad():
                    next(pl_module.parameters()).fill_(math.nan)

    found: list[tuple[int, int]] = []

    def note(of: Any, module: Any) -> None:
        if of.global_step == 153:
            assert callback.run is not None
            found.append((_schedulers(module)[0].state_dict()["last_epoch"], callback.run.step_number))

    module, callback = Net(), GuardCallback(save_every=20)
    ear = Ear(callback, note)
    trainer(tmp_path, [Breaker(), callback, ear], max_steps=260).fit(module, data())
    assert "restore the last good checkpoint" in ear.turned
    assert all(torch.isfinite(p).all() for p in module.parameters())
    schedule, step = found[0]
    assert schedule == step < 150


@pytest.mark.parametrize("weights_only", [True, False])
def test_a_training_resumed_from_lightnings_checkpoint_resumes_guard_and_windows(
    weights_only: bool, tmp_path: Path
) -> None:
    module, callback = Net(), GuardCallback()
    module.nan = range(40, 41)
    first = trainer(tmp_path, [callback], max_steps=60)
    windows: list[Any] = []

    def remember(of: Any, _: Any) -> None:
        assert callback.run is not None
        windows[:] = [callback.run.engine.observer.state()]
        if of.global_step == 60:
            of.save_checkpoint(tmp_path / "at-60.ckpt")

    first.callbacks.append(Ear(callback, remember))
    first.fit(module, data())

    again = GuardCallback()
    seen: list[Any] = []

    class Look(pl.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            run = again.run
            assert run is not None
            seen.extend([len(run.engine.incidents), run.ticks, run.step_number, run.engine.observer.state()])

    second = trainer(tmp_path, [again, Look()], max_steps=80)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the loader begins its epoch anew: Lightning's affair
        second.fit(Net(), data(), ckpt_path=tmp_path / "at-60.ckpt", weights_only=weights_only)
    assert seen == [1, 60, 59, windows[0]]
    assert second.global_step == 80


def test_a_checkpoint_of_an_unguarded_training_is_said_to_hold_no_windows(tmp_path: Path) -> None:
    first = trainer(tmp_path, [], max_steps=20)
    first.fit(Net(), data())
    first.save_checkpoint(tmp_path / "plain.ckpt")
    callback = GuardCallback()
    gaps: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        trainer(tmp_path, [callback, Ear(callback, lambda *_: gaps.extend(callback.run._reported))], max_steps=22).fit(  # type: ignore[union-attr]
            Net(), data(), ckpt_path=tmp_path / "plain.ckpt", weights_only=False
        )
    assert any("detectors begin anew" in gap for gap in gaps)


def test_sigterm_ends_a_lightning_training_with_a_bundle_saved(tmp_path: Path) -> None:
    callback = GuardCallback()

    def terminate(of: Any, _: Any) -> None:
        if of.global_step == 30:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(BaseException) as ended:  # Lightning's own, which is no Exception
        trainer(tmp_path, [callback, Ear(callback, terminate)]).fit(Net(), data())
    assert type(ended.value).__name__ in ("SIGTERMException", "SystemExit")
    assert callback.run is None
    newest = Shelf(tmp_path / "premortem", own=False).latest()
    assert newest is not None
    assert newest.step == 30


def test_an_overflow_under_a_scaler_is_its_own_trade(tmp_path: Path) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    plugin = MixedPrecision("16-mixed", "cpu", scaler=scaler)
    module, callback = Net(), GuardCallback()
    module.nan = range(30, 31)
    ear = Ear(callback)
    trainer(tmp_path, [callback, ear], precision=None, plugins=[plugin]).fit(module, data())
    assert module.seen[31] == module.seen[30]
    assert module.seen[32] != module.seen[31]
    assert scaler.get_scale() < 256.0
    assert all(torch.isfinite(p).all() for p in module.parameters())
    assert not ear.turned


def test_schedules_by_epoch_are_lightnings_and_said_to_be(tmp_path: Path) -> None:
    module, callback = Net(by_epoch=True), GuardCallback()
    gaps: list[str] = []
    trained = trainer(tmp_path, [callback, Ear(callback, lambda *_: gaps.extend(callback.run._reported))])  # type: ignore[union-attr]
    trained.fit(module, data())
    assert any("schedules by epoch" in gap for gap in gaps)


def test_a_second_training_of_the_same_trainer_is_guarded_anew_and_nothing_stays_replaced(tmp_path: Path) -> None:
    module, callback = Net(), GuardCallback()
    trained = trainer(tmp_path, [callback], max_steps=5)
    trained.fit(module, data())
    trained.fit_loop.epoch_loop.max_steps = 10
    trained.fit(module, data())
    assert callback.run is None
    assert "configure_gradient_clipping" not in vars(module)
    assert "lr_scheduler_step" not in vars(module)
    assert "GuardCallback" not in trained.optimizers[0].step.__code__.co_qualname


def test_the_older_namespace_is_guarded_by_the_same_callback(tmp_path: Path) -> None:
    class Old(pytorch_lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Linear(6, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = nn.functional.mse_loss(self.net(batch[0]), batch[1])
            return loss * math.nan if self.trainer.global_step == 7 else loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    module, callback = Old(), GuardCallback()
    trainer(tmp_path, [callback], of=pytorch_lightning, max_steps=20).fit(module, data())
    assert all(torch.isfinite(p).all() for p in module.parameters())


class Manual(Net):
    """Steps for itself."""

    automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        raise AssertionError("the guard lets this training begin")


class Newton(Net):
    """An optimiser that evaluates the loss itself."""

    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: GuardCallback(max_norm=1.0), "set it in the Trainer instead"),
        (lambda: GuardCallback("no-such-register"), "no-such-register"),
    ],
)
def test_mistakes_are_refused_at_once(make: Callable[[], object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make()


@pytest.mark.parametrize(
    ("module", "options", "says"),
    [
        (Manual, {}, "found manual optimisation"),
        (Newton, {}, "found LBFGS"),
        (Net, {"save_evry": 3}, "did you mean 'save_every'"),
    ],
)
def test_what_cannot_be_guarded_ends_the_training_in_one_line(
    module: type[Net], options: dict[str, object], says: str, tmp_path: Path
) -> None:
    clip = None if module is Manual else 0.5
    with pytest.raises(ConfigError, match=says):
        trainer(tmp_path, [GuardCallback(**options)], gradient_clip_val=clip).fit(module(), data())
