"""A heavier model in a real service: what counts is what the worker that answers says it has loaded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from premortem.faults.fault import RemovalFailed
from premortem.risks.serve.slow_inference.causes import HeavierModel
from premortem.risks.serve.slow_inference.crowd import SIZE
from premortem.risks.serve.slow_inference.scene import CONFIG, seeded_model
from premortem.stages.serve.service import Service, running
from premortem.stages.train.hrm.card import save_model


def served(bundle: Path, act: Callable[[HeavierModel], None]) -> None:
    """Carries it out beside the loop of a service of that bundle, as a drill does."""

    async def main() -> None:
        async with running(Service([bundle])) as service:
            fault = HeavierModel(service, bundle, 2)
            fault.prepare(seeded_model(CONFIG, 0))
            await asyncio.to_thread(act, fault)

    asyncio.run(main())


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return save_model(tmp_path / "deployed", 1, seeded_model(CONFIG, 0), task="maze", size=SIZE)


def test_it_is_gone_when_the_model_of_before_is_served_again(bundle: Path) -> None:
    def act(fault: HeavierModel) -> None:
        assert fault.gone().holds is None
        with fault:
            assert fault.observed().holds
            assert fault.gone().holds is False
        assert fault.gone().holds

    served(bundle, act)


def test_a_reload_that_failed_is_asked_for_again(bundle: Path) -> None:
    def act(fault: HeavierModel) -> None:
        fault.__enter__()
        manifest = next(bundle.with_name("aside").glob("*.json"))
        manifest.rename(bundle.parent / "lost")  # no worker takes the bundle of before
        with pytest.raises(RemovalFailed, match="not taken away cleanly"):
            fault.remove()
        assert fault.gone().holds is False, "it lies where it lay, and the heavier one is served"
        (bundle.parent / "lost").rename(bundle / manifest.name)
        fault.remove()
        assert fault.gone().holds

    served(bundle, act)
