"""One callback guards a real Trainer: skips, clipping, the learning rate, restores, stopping, resuming."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from premortem.adapters.transformers import DETECTORS, GuardCallback
from premortem.core.errors import ConfigError
from premortem.core.evidence import Record
from premortem.ledger.ledger import Ledger
from premortem.stages.train.checkpoint import Shelf
from premortem.stages.train.guarded.requests import digest

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore:.*pin_memory.*")


class Net(nn.Module):
    """A regression in the Trainer's way: the output carries the loss."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 24), nn.Tanh(), nn.Dropout(0.1), nn.Linear(24, 1))

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        y = self.net(x)
        return {"loss": nn.functional.mse_loss(y, labels), "logits": y}


class Silent(Net):
    """Its output carries no loss; the Trainer takes the first element."""

    def forward(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        out = super().forward(x, labels)
        return out["loss"], out["logits"]


def rows() -> list[dict[str, Tensor]]:
    made = torch.Generator().manual_seed(3)
    x = torch.randn(512, 6, generator=made)
    return [{"x": a, "labels": torch.sin(a.sum(0, keepdim=True))} for a in x]


class Saboteur(TrainerCallback):
    """The real fault: at given steps every gradient is not finite, or the learning rate is far too high."""

    def __init__(self, model: nn.Module, *, nan: range = range(0), jump: range = range(0), by: float = 1.0) -> None:
        self.step, self.nan, self.jump, self.by = 0, nan, jump, by
        self.before: dict[int, list[int]] = {}
        next(model.parameters()).register_hook(lambda g: g * math.nan if self.step in self.nan else g)

    def on_step_begin(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        self.step = state.global_step
        scheduler = parts["lr_scheduler"]
        self.before[self.step] = [digest(parts["model"].state_dict()), scheduler.state_dict()["last_epoch"]]
        if self.step == self.jump.start and self.by != 1.0:
            self.lr = [g["initial_lr"] for g in parts["optimizer"].param_groups]
            inner = getattr(scheduler, "scheduler", scheduler)
            inner.base_lrs = [lr * self.by for lr in inner.base_lrs]
        if self.step == self.jump.stop and self.by != 1.0:
            inner = getattr(scheduler, "scheduler", scheduler)
            inner.base_lrs = list(self.lr)


def trainer(folder: Path, callbacks: list[Any], model: nn.Module | None = None, **more: Any) -> Trainer:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    given: dict[str, Any] = {
        "output_dir": str(folder), "per_device_train_batch_size": 16, "max_steps": 60, "learning_rate": 3e-3,
        "report_to": [], "save_strategy": "no", "logging_steps": 10, "disable_tqdm": True, "use_cpu": True,
        "max_grad_norm": 0.5, "lr_scheduler_type": "linear", "warmup_steps": 5, "seed": 1,
        "dataloader_pin_memory": False,
    }  # fmt: skip
    args = TrainingArguments(**{**given, **more})
    return Trainer(model=model or Net(), args=args, train_dataset=rows(), callbacks=callbacks)  # type: ignore[arg-type]


def listening(callback: GuardCallback, heard: list[Record]) -> TrainerCallback:
    class Ear(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            assert callback.run is not None
            callback.run.driver.listen(heard.append)

    return Ear()


def bits(trained: Trainer) -> list[int]:
    states = trained.optimizer.state_dict()["state"].values()
    return [digest(trained.model.state_dict()), *(digest(dict(s)) for s in states)]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_healthy_training_under_guard_is_bit_identical(accumulate: int, tmp_path: Path) -> None:
    plain = trainer(tmp_path / "plain", [], gradient_accumulation_steps=accumulate)
    plain.train()
    heard: list[Record] = []
    callback = GuardCallback()
    guarded = trainer(
        tmp_path / "guarded", [callback, listening(callback, heard)], gradient_accumulation_steps=accumulate
    )
    guarded.train()
    assert bits(guarded) == bits(plain)
    assert [h["loss"] for h in guarded.state.log_history if "loss" in h] == [
        h["loss"] for h in plain.state.log_history if "loss" in h
    ]
    assert [float(h["grad_norm"]) for h in guarded.state.log_history if "grad_norm" in h] == [
        float(h["grad_norm"]) for h in plain.state.log_history if "grad_norm" in h
    ]
    assert not any(r.event in ("opened", "guard_fault") for r in heard)


@pytest.mark.parametrize("at", [0, 30])
def test_a_gradient_that_is_not_finite_reaches_neither_weights_nor_schedule(at: int, tmp_path: Path) -> None:
    model = Net()
    fault = Saboteur(model, nan=range(at, at + 1))
    callback = GuardCallback()
    heard: list[Record] = []
    trained = trainer(tmp_path, [callback, fault, listening(callback, heard)], model)
    trained.train()
    assert fault.before[at + 1] == fault.before[at]
    assert fault.before[at + 2] != fault.before[at + 1]
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert trained.state.global_step == 60
    turned = [r.data["rung"] for r in heard if r.event == "intent" and r.data.get("verb") == "turn"]
    assert "skip the offending batch" in turned
    assert trained.args.max_grad_norm == 0.5

    unguarded = Net()
    trainer(tmp_path / "plain", [Saboteur(unguarded, nan=range(at, at + 1))], unguarded).train()
    assert not all(torch.isfinite(p).all() for p in unguarded.parameters())


def test_a_learning_rate_far_too_high_is_answered_around_the_step(tmp_path: Path) -> None:
    model = Net()
    fault = Saboteur(model, jump=range(150, 260), by=1000.0)
    heard: list[Record] = []
    callback = GuardCallback(save_every=20)
    trained = trainer(
        tmp_path, [callback, fault, listening(callback, heard)], model, max_steps=400, lr_scheduler_type="constant"
    )
    trained.train()
    turned = {str(r.data["rung"]) for r in heard if r.event == "intent" and r.data.get("verb") == "turn"}
    assert turned & {"warm up", "cut the learning rate", "restore the last good checkpoint"}
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert any(r.event == "good" for r in heard)


def test_a_training_that_cannot_be_saved_is_stopped_with_its_good_bundle_kept(tmp_path: Path) -> None:
    model = Net()
    fault = Saboteur(model, nan=range(100, 10_000))
    reasons: list[str] = []
    callback = GuardCallback(save_every=20)

    class Ear(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            assert callback.run is not None
            reasons.append(callback.run.stop_reason)

    trained = trainer(tmp_path, [callback, fault, Ear()], model, max_steps=1000)
    trained.train()
    assert trained.state.global_step < 1000
    assert reasons[-1]
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert Shelf(tmp_path / "premortem", own=False).last_good() is not None


def test_a_restore_brings_back_model_optimiser_and_schedule_within_the_run(tmp_path: Path) -> None:
    model = Net()
    heard: list[Record] = []
    callback = GuardCallback(save_every=20)
    found: list[tuple[int, int]] = []

    class Breaker(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
            if state.global_step == 150:
                with torch.no_grad():
                    next(parts["model"].parameters()).fill_(math.nan)

    class Ear(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
            if state.global_step == 153:
                found.append((parts["lr_scheduler"].state_dict()["last_epoch"], callback.run.step_number))  # type: ignore[union-attr]

    trained = trainer(tmp_path, [Breaker(), callback, Ear(), listening(callback, heard)], model, max_steps=260)
    trained.train()
    turned = [str(r.data["rung"]) for r in heard if r.event == "intent" and r.data.get("verb") == "turn"]
    assert "restore the last good checkpoint" in turned
    assert all(torch.isfinite(p).all() for p in model.parameters())
    schedule, step = found[0]
    assert schedule == step < 150


def test_a_resumed_training_resumes_the_guard(tmp_path: Path) -> None:
    model = Net()
    callback = GuardCallback()
    fault = Saboteur(model, nan=range(58, 59))
    first = trainer(tmp_path, [callback, fault], model, save_strategy="steps", save_steps=60, max_steps=60)
    first.train()
    assert (tmp_path / "checkpoint-60" / DETECTORS).exists()
    saved = torch.load(tmp_path / "checkpoint-60" / "training_args.bin", weights_only=False)
    assert saved.max_grad_norm == 0.5

    again = GuardCallback()
    seen: list[Any] = []

    class Ear(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            run = again.run
            assert run is not None
            seen.extend([len(run.engine.incidents), run.ticks, run.step_number, run.engine.observer.state()])

    second = trainer(tmp_path, [again, Ear()], Net(), max_steps=80)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        second.train(resume_from_checkpoint=str(tmp_path / "checkpoint-60"))
    assert seen[:3] == [1, 60, 60]
    assert seen[3] != GuardCallbackFresh.state(tmp_path / "fresh")
    assert second.state.global_step == 80


class GuardCallbackFresh:
    """What detectors look like that have seen nothing."""

    @staticmethod
    def state(folder: Path) -> dict[str, object]:
        callback, seen = GuardCallback(), []

        class Ear(TrainerCallback):
            def on_train_begin(self, *_: Any, **__: Any) -> None:
                assert callback.run is not None
                seen.append(callback.run.engine.observer.state())

        trainer(folder, [callback, Ear()], max_steps=1).train()
        return seen[0]


def test_a_second_training_of_the_same_trainer_is_guarded_anew(tmp_path: Path) -> None:
    callback = GuardCallback()
    trained = trainer(tmp_path, [callback], max_steps=5)
    trained.train()
    trained.train()
    assert callback.run is None
    assert "GuardCallback" not in trained.optimizer.step.__code__.co_qualname


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: GuardCallback(max_norm=1.0), "set it in the TrainingArguments"),
        (lambda: GuardCallback("no-such-register"), "no-such-register"),
    ],
)
def test_mistakes_are_refused_at_once(make: Callable[[], object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make()


def test_an_unknown_option_and_a_missing_loss_end_the_training_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'save_every'"):
        trainer(tmp_path / "a", [GuardCallback(save_evry=3)]).train()
    with pytest.raises(ConfigError, match="found no loss in the output"):
        trainer(tmp_path / "b", [GuardCallback()], Silent()).train()


def test_a_loss_of_ones_own_is_told_by_hear(tmp_path: Path) -> None:
    callback = GuardCallback()
    losses: list[float] = []

    class Own(Trainer):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
            loss, logits = model(**inputs)
            callback.hear(loss)
            losses.append(float(loss.detach()))
            return (loss, logits) if return_outputs else loss

    plain = trainer(tmp_path, [callback], Silent(), max_steps=5)
    Own(model=plain.model, args=plain.args, train_dataset=rows(), callbacks=[callback]).train()  # type: ignore[arg-type]
    with Ledger.open(tmp_path / "premortem" / "ledger.db", run="look") as ledger:
        told = [reading.value for reading in ledger.readings(signal="loss")]
    assert told == pytest.approx(losses)
    assert len(told) == 5
