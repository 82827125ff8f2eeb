"""The storage fills up: old bundles go first, good ones never, and the last one is always valid."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from premortem import Guard
from premortem.core.evidence import Record
from premortem.faults.disk import FilledDisk, FullTmpfs
from premortem.faults.fault import NotPermitted
from premortem.stages.train.checkpoint import Shelf, verify_bundle

MIB = 1 << 20
PARAMS = {"train/storage-full": {"prune_below_gb": 4 / 1024, "stop_below_gb": 0.25 / 1024}}


def train(folder: Path, ledger: Path, steps: int, fill_at: int) -> tuple[list[Record], str]:
    torch.manual_seed(0)
    model = nn.Linear(256, 256)
    guard = Guard(entries=("DEF-3",), params=PARAMS, ledger=ledger).training(
        model, torch.optim.Adam(model.parameters(), lr=1e-3), checkpoints=folder, save_every=5, prune_by_hand=True
    )
    records: list[Record] = []
    fault = FilledDisk(folder, leave_bytes=MIB)
    try:
        with guard as run:
            run.driver.listen(records.append)
            for step in range(steps):
                if step == fill_at:
                    fault.__enter__()
                if run.stopped:
                    break
                x = torch.randn(8, 256)
                run.step((model(x) - x).square().mean())
            return records, run.stop_reason
    finally:
        fault.remove()


def test_old_bundles_make_room_and_the_run_goes_on(tmp_path: Path) -> None:
    if not may_mount():
        with pytest.raises(NotPermitted, match="mount"), FullTmpfs(MIB):
            pass
        return
    with FullTmpfs(48 * MIB, leave_bytes=None) as place:
        records, why = train(place.folder, tmp_path / "ledger.db", steps=220, fill_at=120)
        newest = Shelf(place.folder, own=False).find_loadable().bundle
        assert newest is not None
        verify_bundle(newest.path)
    turned = [r.data["rung"] for r in records if r.event == "intent" and r.data.get("verb") == "turn"]
    assert turned[0] == "delete old checkpoints"
    assert "recovered" in {r.event for r in records}
    assert why == ""


def may_mount() -> bool:
    try:
        with FullTmpfs(MIB):
            return True
    except NotPermitted:
        return False


def test_nothing_good_or_new_is_deleted(tmp_path: Path) -> None:
    with Shelf(tmp_path, keep=3) as shelf:
        for step in range(10):
            shelf.save(step, {"model": {"w": torch.ones(4)}})
        shelf.mark_good(2, {})
        shelf.prune()
        assert {bundle.step for bundle in shelf.bundles()} == {2, 7, 8, 9}


def test_thresholds_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="worsen"):
        Guard(entries=("DEF-3",), params={"train/storage-full": {"stop_below_gb": 5.0}}).training(
            nn.Linear(2, 2), torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
        )
