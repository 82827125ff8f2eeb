"""The guard on a healthy run changes nothing: weights, optimiser, average, filter and random streams, bit for bit."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR
from torch.utils.data import DataLoader, TensorDataset

from premortem import Guard
from premortem.core.evidence import Record
from premortem.stages.train.ema import WeightEMA
from premortem.stages.train.grokfast import GrokfastEMA
from premortem.stages.train.guarded.requests import digest
from premortem.stages.train.hrm import HRM, DeepSupervision, HRMConfig, to_batch
from premortem.stages.train.lm import TINY, LanguageModel
from premortem.stages.train.lm import loss as next_token_loss

Loss = Callable[[nn.Module, Any], Tensor]
STEPS = 70


def mse(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.mse_loss(model(batch[0]), batch[1])


def noisy_net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 24), nn.BatchNorm1d(24), nn.Tanh(), nn.Dropout(0.2), nn.Linear(24, 1))


def regression() -> DataLoader[Any]:
    made = torch.Generator().manual_seed(3)
    x = torch.randn(160, 6, generator=made)
    return DataLoader(TensorDataset(x, torch.sin(x.sum(1, keepdim=True))), 16, shuffle=True)


def text() -> DataLoader[Any]:
    made = torch.Generator().manual_seed(3)
    start = torch.randint(0, 200, (64, 1), generator=made)
    windows = (start + torch.arange(33)) % 200
    return DataLoader(list(windows), 8, shuffle=True)  # type: ignore[arg-type]


class Plan:
    """One recipe: how to build all of it from a seed."""

    def __init__(
        self, model: str, optimizer: Callable[..., torch.optim.Optimizer], schedule: str, **extra: bool
    ) -> None:
        self.is_text, self.make, self.schedule, self.extra = model == "text", optimizer, schedule, extra

    def build(self) -> dict[str, Any]:
        random.seed(5)
        np.random.seed(5)
        torch.manual_seed(5)
        model = LanguageModel(TINY) if self.is_text else noisy_net()
        optimizer = self.make(model.parameters())
        schedules: dict[str, Callable[[], Any]] = {
            "": lambda: None,
            "cosine": lambda: CosineAnnealingLR(optimizer, STEPS),
            "one cycle": lambda: OneCycleLR(optimizer, 0.01, total_steps=STEPS + 1),
            "lambda": lambda: LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 10)),
        }
        return {
            "model": model,
            "optimizer": optimizer,
            "scheduler": schedules[self.schedule](),
            "ema": WeightEMA(model, 0.95) if self.extra.get("ema") else None,
            "gradient_filter": GrokfastEMA(0.9, 0.5) if self.extra.get("filter") else None,
            "loader": text() if self.is_text else regression(),
        }

    @property
    def loss(self) -> Loss:
        return next_token_loss if self.is_text else mse


PLANS = {
    "sgd, dropout and batch norm": Plan("mlp", lambda p: torch.optim.SGD(p, lr=0.01), ""),
    "sgd with momentum, cosine": Plan("mlp", lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9), "cosine", ema=True),
    "fused adamw, one cycle": Plan("mlp", lambda p: torch.optim.AdamW(p, lr=1e-3, fused=True), "one cycle", ema=True),
    "adam, grokfast, average": Plan("mlp", lambda p: torch.optim.Adam(p, lr=1e-3), "lambda", ema=True, filter=True),
    "rmsprop": Plan("mlp", lambda p: torch.optim.RMSprop(p, lr=1e-3), "lambda"),
    "rprop": Plan("mlp", lambda p: torch.optim.Rprop(p, lr=1e-3), ""),
    "language model": Plan("text", lambda p: torch.optim.AdamW(p, lr=3e-3), "cosine", ema=True),
}


def streams() -> list[Any]:
    return [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]  # type: ignore[index, union-attr]


def fingerprint(built: dict[str, Any]) -> list[Any]:
    names = ("model", "optimizer", "scheduler", "ema", "gradient_filter")
    return [_plain(built[name].state_dict()) for name in names if built[name] is not None]


def _plain(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _plain(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_plain(part) for part in tree]
    return digest({"": tree}) if isinstance(tree, Tensor) else repr(tree)


def endless(loader: DataLoader[Any]) -> Iterator[Any]:
    while True:
        yield from loader


def run_plain(plan: Plan) -> tuple[list[Any], list[Any], list[float]]:
    built, losses = plan.build(), []
    for batch in islice(endless(built["loader"]), STEPS):
        value = plan.loss(built["model"], batch)
        value.backward()
        if built["gradient_filter"] is not None:
            built["gradient_filter"].apply(built["model"])
        torch.nn.utils.clip_grad_norm_(built["model"].parameters(), 1.0)
        built["optimizer"].step()
        built["optimizer"].zero_grad(set_to_none=True)
        if built["scheduler"] is not None:
            built["scheduler"].step()
        if built["ema"] is not None:
            built["ema"].update(built["model"])
        losses.append(float(value.detach()))
    return fingerprint(built), streams(), losses


def run_guarded(plan: Plan, folder: Path, *, second_form: bool) -> tuple[Any, Any, Any, list[Record]]:
    built, losses, records = plan.build(), [], list[Record]()
    loader = built.pop("loader")
    with Guard().training(**built, checkpoints=folder, max_norm=1.0, save_every=10, probation=10) as run:
        run.driver.listen(records.append)
        while run.step_number < STEPS:
            for batch in run.batches(loader):
                stepped = run.step(plan.loss, batch) if second_form else run.step(plan.loss(built["model"], batch))
                assert stepped is not None
                losses.append(stepped.loss)
                if run.step_number == STEPS:
                    break
        return fingerprint(built), streams(), losses, records


@pytest.mark.parametrize("second_form", [False, True])
@pytest.mark.parametrize("name", PLANS)
def test_a_healthy_run_under_guard_is_plain_torch_bit_for_bit(name: str, second_form: bool, tmp_path: Path) -> None:
    plain, plain_streams, plain_losses = run_plain(PLANS[name])
    guarded, guarded_streams, losses, records = run_guarded(PLANS[name], tmp_path / "ckpt", second_form=second_form)
    assert losses == plain_losses
    assert guarded == plain
    assert guarded_streams == plain_streams
    assert [r for r in records if r.data.get("level") in ("RED", "CRITICAL")] == []
    assert [r.data for r in records if r.event == "guard_fault"] == []
    assert any(r.event == "good" for r in records)


def sudoku_like() -> DataLoader[Any]:
    made = np.random.default_rng(2)
    inputs, labels = made.integers(1, 6, (48, 16)), made.integers(2, 6, (48, 16))
    whole = to_batch(inputs, labels)
    rows = [{name: tensor[i] for name, tensor in whole.items()} for i in range(48)]
    return DataLoader(rows, 8, shuffle=True)  # type: ignore[arg-type]


def hrm() -> tuple[HRM, torch.optim.Optimizer, DataLoader[Any], DeepSupervision]:
    torch.manual_seed(11)
    config = HRMConfig(
        seq_len=16, vocab_size=6, hidden_size=16, num_heads=2, width_multiple=16, high_layers=1, low_layers=1
    )
    model = HRM(config)
    loader = sudoku_like()
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3), loader, DeepSupervision(model, next(iter(loader)))


def test_a_recurrent_model_with_its_carry_is_bit_identical_and_its_carry_is_committed_by_the_guard(
    tmp_path: Path,
) -> None:
    model, optimizer, loader, supervision = hrm()
    for batch in islice(endless(loader), 12):
        supervision(model, batch).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        supervision.commit()
    plain = (_plain(model.state_dict()), _plain(optimizer.state_dict()), _plain(supervision.state_dict()), streams()[0])

    model, optimizer, loader, supervision = hrm()
    with Guard().training(
        model, optimizer, state={"carry": supervision}, checkpoints=tmp_path, max_norm=1.0, save_every=4
    ) as run:
        while run.step_number < 12:
            for batch in run.batches(loader):
                run.step(supervision, batch)
                if run.step_number == 12:
                    break
        guarded = (
            _plain(model.state_dict()), _plain(optimizer.state_dict()), _plain(supervision.state_dict()), streams()[0],
        )  # fmt: skip
    assert guarded == plain


def test_a_poisoned_segment_leaves_the_carry_as_it_was(tmp_path: Path) -> None:
    model, optimizer, loader, supervision = hrm()
    with Guard().training(model, optimizer, state={"carry": supervision}, checkpoints=tmp_path) as run:
        batch = next(iter(loader))
        run.step(supervision, batch)
        before = _plain(supervision.state_dict())
        hook = next(model.parameters()).register_hook(lambda g: g * float("nan"))
        stepped = run.step(supervision, batch)
        hook.remove()
        assert stepped is not None
        assert not stepped.applied
        assert _plain(supervision.state_dict()) == before
        assert run.step(supervision, batch).applied  # type: ignore[union-attr]


def test_the_guard_draws_no_random_number_while_it_works_through_an_incident(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    seen = []
    with Guard().training(
        model, torch.optim.SGD(model.parameters(), lr=0.01), checkpoints=tmp_path, save_every=5, probation=5
    ) as run:
        for step in range(40):
            x = torch.ones(4, 4) * (float("nan") if step == 20 else 1.0)
            before = streams()
            run.step((model(x) - 1).square().mean())
            seen.append(streams() == before)
    assert all(seen)
