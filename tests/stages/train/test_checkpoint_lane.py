"""A bundle is saved where no thread can be started: memory is short, and its stack would take megabytes."""

from __future__ import annotations

import multiprocessing
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from premortem.faults.memory import AddressSpaceLimit
from premortem.stages.train.checkpoint import Shelf, verify_bundle
from premortem.stages.train.checkpoint.lane import Lane

MIB = 1 << 20


def save_without_threads(folder: str, answer: Any) -> None:
    weights = {"model": {"w": torch.arange(300_000, dtype=torch.float32)}}
    calls: list[int] = []
    with AddressSpaceLimit(4 * MIB):
        refused = False
        try:
            threading.Thread(target=lambda: None).start()
        except RuntimeError:
            refused = True
        with Lane("few") as lane:
            futures = [lane.submit(calls.append, i) for i in range(3)]
            failed = lane.submit(int, "no number").exception()
        saved = Shelf(Path(folder)).save(7, weights)
    answer.send((refused, calls, [f.result() for f in futures], repr(failed), str(saved.path)))


def test_where_no_thread_can_be_started_a_bundle_is_saved_all_the_same(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    child = context.Process(target=save_without_threads, args=(str(tmp_path), there))
    child.start()
    there.close()
    refused, calls, results, failed, path = here.recv()
    child.join()
    assert refused
    assert calls == [0, 1, 2]  # each once, in order
    assert results == [None, None, None]
    assert "ValueError" in failed
    verify_bundle(Path(path))


def test_a_lane_makes_each_call_once_and_waits_for_them() -> None:
    done: list[int] = []
    with Lane("some") as lane:
        futures = [lane.submit(done.append, i) for i in range(20)]
        failing = lane.submit(int, "no number")
    assert done == list(range(20))
    assert all(f.done() for f in futures)
    with pytest.raises(ValueError, match="no number"):
        failing.result()
