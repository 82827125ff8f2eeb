"""Halting extremes: early training is silent, halting at once is seen and answered by what can mend it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from premortem import Guard
from premortem.core.detector import Level
from premortem.core.errors import ConfigError
from premortem.core.evidence import Record
from premortem.risks.train.halting_extremes.drill import HaltingJump
from premortem.risks.train.halting_extremes.risk import Params, watches
from premortem.stages.train.hrm import HRM, DeepSupervision, Halting, HRMConfig
from premortem.stages.train.puzzles import SIGNALS, HaltingSetting

BATCH = 16
AT = 60
CONFIG = HRMConfig(
    seq_len=16, vocab_size=5, hidden_size=16, num_heads=2, expansion=2.0, width_multiple=16, high_layers=1,
    low_layers=1, cycles=1, steps_per_cycle=1, positions="learned", loss="softmax",
    halting=Halting(max_segments=4, exploration=0.1),
)  # fmt: skip


def measured(supervision: DeepSupervision) -> dict[str, float]:
    return {signal.name: float(supervision.metrics[signal.name]) for signal in SIGNALS}


def train(folder: Path, *, eager: float, fault: bool, steps: int = 120) -> tuple[HRM, list[Record]]:
    """``eager``: by how much a real but hardly trained model prefers to halt, in logits."""
    torch.manual_seed(0)
    model = HRM(CONFIG)
    with torch.no_grad():
        model.q_head.bias.copy_(torch.tensor([eager, 0.0]))
    puzzles = torch.randint(0, 5, (BATCH, 16))
    batch = {"inputs": puzzles, "labels": puzzles.clamp_min(1)}
    supervision = DeepSupervision(model, batch)
    jump = HaltingJump(model, -math.inf, 0.0)
    records: list[Record] = []

    def loss(given: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        value = supervision(model, inputs)
        for name, number in measured(supervision).items():
            run.note(name, number)
        return value

    run = Guard("agent-forge", entries=("AF-1.4",)).training(
        model, torch.optim.AdamW(model.parameters(), lr=1e-5), checkpoints=folder, save_every=20,
        state={"carry": supervision}, signals=SIGNALS,
        controls={"halting_threshold": HaltingSetting(model, "threshold"),
                  "halting_exploration": HaltingSetting(model, "exploration")},
    )  # fmt: skip
    with run:
        run.driver.listen(records.append)
        for step in range(steps):
            if fault and step == AT:
                jump.__enter__()
            run.step(loss, batch)
    return model, records


def turned(records: list[Record]) -> list[str]:
    return [str(r.data["rung"]) for r in records if r.event == "intent" and r.data.get("verb") == "turn"]


@pytest.mark.parametrize("eager", [-1.0, 1.0])
def test_a_model_that_explores_is_never_an_incident(tmp_path: Path, eager: float) -> None:
    _, records = train(tmp_path, eager=eager, fault=False)
    assert "opened" not in [r.event for r in records]


def test_a_threshold_at_its_extreme_is_set_back(tmp_path: Path) -> None:
    model, records = train(tmp_path, eager=-1.0, fault=True, steps=450)
    opened = next(r for r in records if r.event == "opened")
    assert opened.tick - AT <= 15
    assert turned(records)[0] == "set the halting threshold back"
    assert [r.data["after_rung"] for r in records if r.event == "recovered"] == ["set the halting threshold back"]
    assert model.halting.threshold == 0.0


def test_a_model_that_wants_to_halt_at_once_is_made_to_explore(tmp_path: Path) -> None:
    _, records = train(tmp_path, eager=2.0, fault=True, steps=240)
    assert turned(records)[:2] == ["set the halting threshold back", "force exploration of halting"]
    assert "force exploration of halting" in [r.data.get("after_rung") for r in records if r.event == "recovered"]


def test_never_halting_is_only_recorded() -> None:
    detector = next(w for w in watches(Params()) if w.signal == "halted_at_max").detector()
    assert {detector.observe(1.0) for _ in range(500)} == {Level.YELLOW}


def test_a_run_without_halting_binds_and_reports_the_gap(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    records: list[Record] = []
    run = Guard("agent-forge", entries=("AF-1.4",)).training(
        model, torch.optim.SGD(model.parameters(), lr=0.1), checkpoints=tmp_path
    )
    run.driver.listen(records.append)
    with run:
        pass
    gaps = " ".join(str(r.data["what"]) for r in records if r.event == "unwatched")
    assert "halting at once is not watched" in gaps
    assert "'set the halting threshold back' is unavailable" in gaps


def test_a_control_that_the_run_has_already_is_refused() -> None:
    model = HRM(CONFIG)
    setting = HaltingSetting(model, "threshold")
    with pytest.raises(ConfigError, match="'max_norm', which the run has already"):
        Guard().training(model, torch.optim.SGD(model.parameters(), lr=0.1), controls={"max_norm": setting})


def test_a_witness_of_a_signal_that_is_not_there_is_refused() -> None:
    model = HRM(CONFIG)
    setting = HaltingSetting(model, "threshold")
    with pytest.raises(ConfigError, match="expected one of controls= and a signal"):
        Guard().training(
            model, torch.optim.SGD(model.parameters(), lr=0.1), controls={"t": setting}, witnesses={"t": "nothing"}
        )
