"""Controls from another thread: what was reported as failed is not carried out later."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from premortem.core.errors import StageError
from premortem.stages.serve.service import Service, controls

from .test_service import PATIENT, play


def test_a_turn_that_the_loop_did_not_come_to_is_not_carried_out_later(
    sudoku_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controls, "_PATIENCE_S", 0.05)

    async def scene(service: Service) -> None:
        failed: list[StageError] = []

        def turn() -> None:
            for act in (lambda: service.set_depth(1), service.restart_worker):
                try:
                    act()
                except StageError as error:
                    failed.append(error)

        thread, pid = threading.Thread(target=turn), service.worker_pid
        thread.start()
        thread.join()  # the loop stands still meanwhile
        assert ["did not act within 0.05 s" in str(error) for error in failed] == [True, True]
        await asyncio.sleep(0.05)
        assert (service.depth, service.worker_pid, service.crew.load) == (4, pid, 1)

    play(scene, Service([sudoku_bundle], PATIENT))
