"""A real service with a tiny, untrained model: what it says is not right, but it is always the same."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch

from premortem.stages.serve.clients import puzzles
from premortem.stages.train.hrm import HRM, HRMConfig
from premortem.stages.train.hrm.card import save_model
from premortem.stages.train.hrm.config import Halting

CONFIG = HRMConfig(
    seq_len=16, vocab_size=5, hidden_size=16, num_heads=2, expansion=2.0, width_multiple=16, high_layers=1,
    low_layers=1, cycles=1, steps_per_cycle=1, positions="learned", loss="softmax", halting=Halting(max_segments=4),
)  # fmt: skip
MAZE_CONFIG = HRMConfig(
    seq_len=25, vocab_size=5, hidden_size=16, num_heads=2, expansion=2.0, width_multiple=16, high_layers=1,
    low_layers=1, cycles=1, steps_per_cycle=1, positions="learned", loss="softmax", halting=Halting(max_segments=2),
)  # fmt: skip


def save_tiny(folder: Path, config: HRMConfig, task: str, size: int) -> Path:
    """A bundle of seeded weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = HRM(config)
    return save_model(folder, 7, model, task=task, size=size)


@pytest.fixture(scope="session")
def sudoku_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("sudoku"), CONFIG, "sudoku", 4)


@pytest.fixture(scope="session")
def maze_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("maze"), MAZE_CONFIG, "maze", 5)


@pytest.fixture(scope="session")
def asked() -> list[list[int]]:
    """4×4 Sudokus."""
    rows: list[list[int]] = puzzles().train.puzzles.tolist()
    return rows


@pytest.fixture(scope="session")
def service_in_a_thread(sudoku_bundle: Path) -> Iterator[httpx.Client]:
    """A service behind a real socket, for tests that only ask."""
    import uvicorn

    from premortem.stages.serve.service import Service, ServiceConfig, running
    from premortem.stages.serve.service.http import build_app
    from premortem.stages.serve.service.server import listen

    service = Service([sudoku_bundle], ServiceConfig(timeout_s=60, max_wait_s=60))
    server = uvicorn.Server(uvicorn.Config(build_app(service), log_level="error", lifespan="off"))
    line, is_up = listen("127.0.0.1", 0), threading.Event()

    async def main() -> None:
        async with running(service):
            is_up.set()
            await server.serve(sockets=[line])

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert is_up.wait(120)
    with httpx.Client(base_url=f"http://127.0.0.1:{line.getsockname()[1]}", timeout=60) as client:
        yield client
    server.should_exit = True
    thread.join(60)
    line.close()
