"""The drill's job: splitting its batch changes memory and not the gradient, and a killed job goes on where it was."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from premortem.risks.train.job_killed import small_job
from premortem.risks.train.job_killed.small_job import BATCH, STEPS, Network, train


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its data wait for nobody here; the handler of SIGTERM is put back."""
    monkeypatch.setattr(small_job, "DATA_S", 0.0)
    monkeypatch.setattr(small_job.signal, "signal", lambda number, act: None)


def test_a_split_batch_gives_the_whole_batchs_step() -> None:
    whole, split = Network(3, BATCH), Network(3, BATCH // 8)
    for _ in range(2):
        assert split.step() == pytest.approx(whole.step(), rel=1e-5)
    np.testing.assert_allclose(split.w, whole.w, rtol=1e-4, atol=1e-6)


def test_a_job_that_is_started_again_ends_with_the_same_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "through").mkdir()
    (tmp_path / "again").mkdir()
    assert train(tmp_path / "through", 1) == 0
    monkeypatch.setattr(small_job, "STEPS", STEPS // 2)
    assert train(tmp_path / "again", 1) == 0
    (tmp_path / "again" / "job-1.json").unlink()
    monkeypatch.setattr(small_job, "STEPS", STEPS)
    assert train(tmp_path / "again", 1) == 0
    losses = [json.loads((tmp_path / where / "job-1.json").read_text())["loss"] for where in ("through", "again")]
    assert losses[0] == losses[1] < 2.0
