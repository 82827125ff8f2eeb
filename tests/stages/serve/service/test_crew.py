"""The worker's keeper: never without a worker for good, one renewal at a time, nothing left behind at the end."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from premortem.core.errors import ConfigError, StageError
from premortem.stages.serve.service import Refused, Reply, Service, ServiceConfig
from premortem.stages.serve.service import link as links
from premortem.stages.serve.service.frames import Spec
from premortem.stages.serve.service.link import Link
from premortem.stages.train.hrm import HRM
from premortem.stages.train.hrm.card import save_model
from premortem.stages.train.hrm.config import Halting

from .conftest import CONFIG, MAZE_CONFIG, save_tiny
from .test_service import PATIENT, account, ask_all, play, until


def link_of(service: Service, load: int) -> Link | None:
    """Of that start, once its process is there."""
    return next((link for link in service.crew._links if link.spec.load == load and link.pid), None)


def is_one(service: Service) -> bool:
    return len(service.crew._links) == 1


def slightly_other(bundle: Path) -> None:
    """In its place: weights of another fingerprint whose canary puzzles come out the same."""
    shutil.rmtree(bundle)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = HRM(CONFIG)
    with torch.no_grad():
        model.q_head.bias[0] += 1e-3
    assert save_model(bundle.parent, 7, model, task="sudoku", size=4) == bundle


def test_without_descriptors_for_a_worker_it_goes_on_trying(sudoku_bundle: Path, asked: list[list[int]]) -> None:
    async def scene(service: Service) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))  # what is open stays open
        try:
            os.kill(service.worker_pid, signal.SIGKILL)
            await until(lambda: "could not be started" in service.crew.fault)
            assert not service.is_ready
            assert "Too many open files" in service.unready
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await until(lambda: service.is_ready)
        assert isinstance(await service.answer(asked[0]), Reply)

    play(scene, Service([sudoku_bundle], PATIENT))


def test_a_bundle_of_another_task_in_place_of_the_first_is_not_believed_and_not_the_end(
    tmp_path: Path, asked: list[list[int]]
) -> None:
    bundle, aside = save_tiny(tmp_path / "model", CONFIG, "sudoku", 4), tmp_path / "aside"

    async def scene(service: Service) -> None:
        bundle.rename(aside)
        save_tiny(bundle.parent, MAZE_CONFIG, "maze", 5)
        with pytest.raises(StageError, match="found a bundle of the task maze, expected sudoku as at the first start"):
            await asyncio.wrap_future(service.reload_worker())
        assert isinstance(await service.answer(asked[0]), Reply), "the old one stays"
        os.kill(service.worker_pid, signal.SIGKILL)
        await until(lambda: service.crew.current is None and "task maze" in service.crew.fault)
        shutil.rmtree(bundle)
        aside.rename(bundle)
        await until(lambda: service.is_ready)
        assert isinstance(await service.answer(asked[1]), Reply)

    play(scene, Service([bundle], PATIENT))


def test_an_exception_that_nobody_thought_of_does_not_end_the_trying(
    sudoku_bundle: Path, asked: list[list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(service: Service) -> None:
        first, service.crew._first = service.crew._first, None  # type: ignore[assignment]
        service.crew._first = {task: replace_canary(model) for task, model in first.items()}
        os.kill(service.worker_pid, signal.SIGKILL)
        await until(lambda: "TypeError" in caplog.text)
        service.crew._first = first
        await until(lambda: service.is_ready)
        assert isinstance(await service.answer(asked[0]), Reply)

    def replace_canary(model: object) -> object:
        from msgspec.structs import replace as with_field

        return with_field(model, canary=None)  # type: ignore[type-var]

    play(scene, Service([sudoku_bundle], PATIENT))


def test_a_process_that_cannot_be_spoken_to_is_seen_off(sudoku_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async def refuse(*_: object, **__: object) -> None:
            raise OSError("no line")

        ends: list[Link] = []
        link = Link(Spec([str(sudoku_bundle)], 4, 0.0, 1, 1), lambda *_: None, ends.append)
        monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", refuse, raising=False)
        with pytest.raises(StageError, match="cannot be spoken to: no line"):
            await link.start(60)
        assert await link.ended() == -signal.SIGKILL, "and it is no zombie"
        assert ends == [link]

    asyncio.run(main())


def test_who_thinks_long_is_not_taken_for_dead(tmp_path: Path, asked: list[list[int]]) -> None:
    deep = replace(CONFIG, halting=Halting(max_segments=6000))
    bundle = save_tiny(tmp_path / "model", deep, "sudoku", 4)

    async def scene(service: Service) -> None:
        one = asyncio.ensure_future(service.answer(asked[0]))
        longest = 0.0
        while not one.done():
            longest = max(longest, service.oldest_s)
            await asyncio.sleep(0.01)
        assert longest > 0.4, "else it was no long thought"
        assert ((await one).answer.load, (await one).answer.segments, service.crew.wedged) == (1, 6000, 0)
        assert service.drain.per_s is None, "signs of life are no answers"

    play(scene, Service([bundle], ServiceConfig(timeout_s=120, max_wait_s=120, silent_s=0.4)))


def test_a_stopped_worker_makes_the_service_unready_until_it_goes_on(
    sudoku_bundle: Path, asked: list[list[int]]
) -> None:
    async def scene(service: Service) -> None:
        os.kill(service.worker_pid, signal.SIGSTOP)
        assert service.is_ready, "it owes nothing"
        one = asyncio.ensure_future(service.answer(asked[0]))
        await until(lambda: not service.is_ready)
        assert "owes an answer and has shown no sign of life for 1." in service.unready
        os.kill(service.worker_pid, signal.SIGCONT)
        assert (await one).answer.load == 1
        assert service.is_ready

    play(scene, Service([sudoku_bundle], PATIENT))


def test_after_a_pause_clients_are_answered_again(sudoku_bundle: Path, asked: list[list[int]]) -> None:
    async def scene(service: Service) -> None:
        os.kill(service.worker_pid, signal.SIGSTOP)
        waiting = asyncio.ensure_future(ask_all(service, asked[:20]))
        await until(lambda: service.oldest_s > 3.0)
        service.drain.answered(1, is_full=True)  # as a batch that was answered just before the pause would have left it
        service.drain._since = service.drain._clock() - service.oldest_s
        os.kill(service.worker_pid, signal.SIGCONT)
        assert all(isinstance(told, Reply) for told in await waiting)
        refused = True
        while refused:  # for ever, were the rate of the pause kept
            service.clear_cache()
            refused = any(isinstance(told, Refused) for told in await ask_all(service, asked[:100]))
            await asyncio.sleep(0.05)
        account(service)

    config = ServiceConfig(timeout_s=60, max_wait_s=1.0, cache=None, slots=32)
    play(scene, Service([sudoku_bundle], config))


def test_renewals_come_one_after_another_and_those_that_wait_share_one(sudoku_bundle: Path) -> None:
    async def scene(service: Service) -> None:
        renewals = [asyncio.wrap_future(service.reload_worker()) for _ in range(4)]
        starting = 0
        while not all(renewal.done() for renewal in renewals):
            starting = max(starting, sum(link.ready is None for link in service.crew._links))
            await asyncio.sleep(0.01)
        await asyncio.gather(*renewals)
        assert starting == 1
        assert (service.crew.load, service.restarts) == (3, 2)
        await until(lambda: is_one(service))
        await asyncio.wrap_future(service.reload_worker())
        assert service.restarts == 3, "and later ones have their turn"

    play(scene, Service([sudoku_bundle], PATIENT))


def test_a_renewal_that_was_overtaken_does_not_take_the_place_of_the_newer_worker(sudoku_bundle: Path) -> None:
    async def scene(service: Service) -> None:
        renewal = asyncio.wrap_future(service.reload_worker())
        await until(lambda: link_of(service, 2) is not None)
        spare = link_of(service, 2)
        assert spare is not None
        os.kill(spare.pid, signal.SIGSTOP)
        await asyncio.wrap_future(service.restart_worker())
        assert service.crew.current is link_of(service, 3)
        os.kill(spare.pid, signal.SIGCONT)
        await renewal
        await until(lambda: is_one(service))
        assert service.crew.current is link_of(service, 3)

    play(scene, Service([sudoku_bundle], PATIENT))


def test_a_renewed_worker_has_its_full_share_of_the_processor(sudoku_bundle: Path) -> None:
    async def scene(service: Service) -> None:
        await asyncio.wrap_future(service.reload_worker())
        group = Path(f"/proc/{service.worker_pid}/autogroup")
        if group.exists():
            assert group.read_text("ascii").endswith("nice 0\n")

    play(scene, Service([sudoku_bundle], PATIENT))


@pytest.mark.parametrize("refusals", [2, 99])
def test_a_share_that_the_kernel_would_not_hear_of_is_asked_for_again(
    refusals: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[int] = []

    def kernel(_: Link, niceness: int) -> bool:
        heard.append(niceness)
        return len(heard) > refusals

    async def main() -> None:
        monkeypatch.setattr(links, "_SHARE_WAITS_S", (0.0,) * 4)
        monkeypatch.setattr(Link, "_set_share", kernel)
        await Link(Spec([], 1, 0.0, 1, 1), lambda *_: None, lambda _: None)._take_full_share()

    asyncio.run(main())
    assert heard == [0] * min(refusals + 1, 4)
    assert ("small share of the processor" in caplog.text) == (refusals == 99)


def test_what_is_asked_of_a_closed_service_starts_nothing(sudoku_bundle: Path) -> None:
    async def main() -> None:
        service = Service([sudoku_bundle], PATIENT)
        await service.start()
        renewal = asyncio.wrap_future(service.reload_worker())
        await until(lambda: link_of(service, 2) is not None)
        await service.close(1.0)
        with pytest.raises(StageError, match="closed"):
            await renewal
        for control in (service.restart_worker, service.reload_worker):
            with pytest.raises(StageError, match="the service was closed: start it anew"):
                await asyncio.wrap_future(control())
        assert (service.crew.load, service.worker_pid, service.crew._links) == (2, 0, set())

    asyncio.run(main())


def test_what_a_worker_says_is_told_under_its_own_version(tmp_path: Path, asked: list[list[int]]) -> None:
    bundle = save_tiny(tmp_path / "model", CONFIG, "sudoku", 4)

    async def scene(service: Service) -> None:
        old = service.worker_pid
        first = service.crew.models["sudoku"].version
        os.kill(old, signal.SIGSTOP)
        waiting = [asyncio.ensure_future(service.answer(asked[number], model=first)) for number in range(2)]
        await until(lambda: service.crew.current is not None and len(service.crew.current.at_work) == 2)
        slightly_other(bundle)
        await asyncio.wrap_future(service.reload_worker())
        second = service.crew.models["sudoku"].version
        assert second != first
        os.kill(old, signal.SIGCONT)
        assert [(await one).answer.model for one in waiting] == [first] * 2
        again = await service.answer(asked[0], model=second)
        assert (again.cached, again.answer.model, again.answer.load) == (False, second, 2)

    play(scene, Service([bundle], PATIENT))


def test_who_insists_on_a_version_is_refused_when_another_would_answer(tmp_path: Path, asked: list[list[int]]) -> None:
    bundle = save_tiny(tmp_path / "model", CONFIG, "sudoku", 4)

    async def scene(service: Service) -> None:
        old, first = service.worker_pid, service.crew.models["sudoku"].version
        os.kill(old, signal.SIGSTOP)
        strict = asyncio.ensure_future(service.answer(asked[0], model=first))
        by_name = asyncio.ensure_future(service.answer(asked[1], model=bundle.name))
        await until(lambda: service.crew.current is not None and len(service.crew.current.at_work) == 2)
        slightly_other(bundle)
        await asyncio.wrap_future(service.reload_worker())
        os.kill(old, signal.SIGKILL)
        with pytest.raises(Refused, match=f"was to be {first}; now {service.crew.models['sudoku'].version}") as told:
            await strict
        assert (told.value.reason, told.value.was_accepted) == ("model", True)
        assert (await by_name).answer.load == 2, "the name is still the same"
        assert service.dispatch._insists == {}
        account(service)

    play(scene, Service([bundle], PATIENT))


def test_two_bundles_of_one_task_are_refused_by_name(tmp_path: Path, sudoku_bundle: Path) -> None:
    other = save_tiny(tmp_path / "other", CONFIG, "sudoku", 4)

    async def main() -> None:
        with pytest.raises(ConfigError, match="found two bundles of the task sudoku") as told:
            await Service([sudoku_bundle, other], PATIENT).start()
        assert str(sudoku_bundle) in str(told.value)
        assert str(other) in str(told.value)
        assert "\n" not in str(told.value)

    asyncio.run(main())
