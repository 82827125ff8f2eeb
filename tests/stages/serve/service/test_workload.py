"""The service as a workload: fresh requests only, what is turned is read back where it acts, silence is no health."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import torch

from premortem.core.action import Override, Owner
from premortem.stages.serve.service import MazeWalks, Refused, Service, ServiceConfig, running
from premortem.stages.serve.service.fresh import AskedWindow, LatencyWindow
from premortem.stages.serve.service.latency import Samples
from premortem.stages.serve.service.latency_baseline import Healthy, LatencyBaseline
from premortem.stages.serve.service.workload import ServiceWorkload
from premortem.stages.train.ppo import PPOPolicy
from premortem.stages.train.ppo.network import WalkNet, WalkNetConfig

MAZE = [2, 1, 1, 0, 3, 0, 0, 1, 0, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 1, 1, 1, 1, 1, 1]
CONFIG = ServiceConfig(timeout_s=60, max_wait_s=60, cache=0)
CACHING = ServiceConfig(timeout_s=60, max_wait_s=60)
NARROW = ServiceConfig(timeout_s=60, max_wait_s=60, queue=50, cache=0)
ME = Owner(1, "a rung")
Scene = Callable[[Service, ServiceWorkload], Awaitable[None]]


def play(
    scene: Scene, bundle: Path, home: Path, policy: PPOPolicy | None = None, config: ServiceConfig = CONFIG
) -> None:
    """A guardable service from start to close, with a scene between."""
    fallbacks = {} if policy is None else {"maze": MazeWalks(policy, "walks")}

    async def main() -> None:
        async with running(Service([bundle], config, fallbacks=fallbacks), grace_s=20) as service:
            workload = ServiceWorkload(service, lambda key: LatencyBaseline(home / "baseline.json", key))
            await scene(service, workload)

    asyncio.run(main())


def read(workload: ServiceWorkload) -> dict[str, float | None]:
    return dict(zip((signal.name for signal in workload.signals), workload.row(), strict=True))


async def ask(service: Service, count: int, puzzle: list[int]) -> None:
    for _ in range(count):
        await service.answer(puzzle)


async def until(holds: Callable[[], bool]) -> None:
    for _ in range(6000):
        if holds():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came to that")


def test_a_p95_needs_200_fresh_requests_and_a_turn_begins_them_anew(
    sudoku_bundle: Path, asked: list[list[int]], tmp_path: Path
) -> None:
    async def scene(service: Service, workload: ServiceWorkload) -> None:
        assert read(workload)["latency_p95_ms"] is None
        await ask(service, 199, asked[0])
        row = read(workload)
        assert row["latency_p50_ms"] is not None
        assert row["latency_p95_ms"] is None
        await ask(service, 1, asked[0])
        row = read(workload)
        assert row["latency_p95_ms"] is not None
        assert row["latency_p99_ms"] >= row["latency_p95_ms"] >= row["latency_p50_ms"] > 0  # type: ignore[operator]
        assert row["slowdown_p95"] is None, "without a baseline nothing is known"
        workload.controls["depth"].turn(ME, Override("scale", 0.5))
        read(workload)
        await ask(service, 199, asked[0])
        row = read(workload)
        assert row["latency_p95_ms"] is None
        assert row["demand"] == 199.0
        await ask(service, 1, asked[0])
        assert read(workload)["latency_p95_ms"] is not None

    play(scene, sudoku_bundle, tmp_path)


def test_who_waited_behind_requests_of_the_old_setting_does_not_count(
    sudoku_bundle: Path, asked: list[list[int]], tmp_path: Path
) -> None:
    async def scene(service: Service, workload: ServiceWorkload) -> None:
        old = [asyncio.ensure_future(service.answer(asked[number])) for number in range(40)]
        await asyncio.sleep(0)
        workload.controls["depth"].turn(ME, Override("scale", 0.5))
        await asyncio.gather(*(service.answer(asked[number]) for number in range(40, 60)))
        await asyncio.gather(*old)
        read(workload)
        assert len(service.samples) == 0
        await ask(service, 30, asked[0])
        read(workload)
        assert len(service.samples) == 30

    play(scene, sudoku_bundle, tmp_path)


@pytest.mark.parametrize(("by", "segments"), [(0.5, 2), (0.25, 1), (0.125, 1), (0.74, 2)])
def test_depth_is_whole_segments_and_reads_as_it_was_asked_for(
    sudoku_bundle: Path, asked: list[list[int]], tmp_path: Path, by: float, segments: int
) -> None:
    async def scene(service: Service, workload: ServiceWorkload) -> None:
        depth = workload.controls["depth"]
        assert depth.read() == 4.0
        depth.turn(ME, Override("scale", by))
        assert depth.read() == 4 * by, "what the kernel expects"
        assert service.depth == segments
        reply = await service.answer(asked[1])
        assert reply.answer.segments <= segments
        assert read(workload)["depth_in_force"] == 4 * by
        service.set_depth(3)
        assert depth.read() == 3.0, "somebody else set it: seen"
        depth.undo(ME)
        assert (depth.read(), service.depth) == (4.0, 4)

    play(scene, sudoku_bundle, tmp_path)


def test_caches_are_cleared_once_and_a_restart_is_there_when_the_new_worker_is_warm(
    sudoku_bundle: Path, asked: list[list[int]], tmp_path: Path
) -> None:
    async def scene(service: Service, workload: ServiceWorkload) -> None:
        await ask(service, 3, asked[0])
        assert read(workload)["cache_entries"] == 1.0
        cache, worker = workload.controls["cache"], workload.controls["worker"]
        cache.turn(ME, Override("choose", "clear #1.1"))
        assert cache.read() == "clear #1.1"
        assert read(workload)["cache_entries"] == 0.0
        service.clear_cache()
        assert cache.read() == "nothing", "another clearing is not the evidence of this one"
        pid = service.worker_pid
        worker.turn(ME, Override("choose", "restart #1.1"))
        assert worker.read() == "nothing", "asked for, and not there yet"
        assert service.worker_pid == pid, "one that answers goes on until the new one is warm"
        assert (await service.answer(asked[1])).answer.load == 1
        await until(lambda: worker.read() == "restart #1.1")
        assert service.worker_pid not in (0, pid)
        assert (await service.answer(asked[2])).answer.load == 2
        assert "fallback" not in workload.controls, "a service without a fallback has one rung less"

    play(scene, sudoku_bundle, tmp_path, config=CACHING)


@pytest.mark.parametrize("falls_silent", ["before", "meanwhile"])
def test_a_silent_worker_is_ended_at_once_and_what_it_owed_is_answered_by_the_next(
    falls_silent: str, sudoku_bundle: Path, asked: list[list[int]], tmp_path: Path
) -> None:
    async def scene(service: Service, workload: ServiceWorkload) -> None:
        worker, pid = workload.controls["worker"], service.worker_pid
        if falls_silent == "meanwhile":
            worker.turn(ME, Override("choose", "restart #1.1"))
        os.kill(pid, signal.SIGSTOP)
        owed = asyncio.ensure_future(service.answer(asked[0]))
        if falls_silent == "before":
            await until(lambda: service.silent_s > 1.1)
            worker.turn(ME, Override("choose", "restart #1.1"))
            assert service.worker_pid != pid
        await until(lambda: worker.read() == "restart #1.1")
        reply = await owed
        assert reply.answer.load >= 2
        await until(lambda: len(service.crew._links) == 1)
        assert service.worker_pid == next(iter(service.crew._links)).pid

    play(scene, sudoku_bundle, tmp_path)


def test_the_fallback_answers_and_a_probe_still_sees_the_model(maze_bundle: Path, tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        policy = PPOPolicy(WalkNet(WalkNetConfig(channels=4, rounds=4)))

    async def scene(service: Service, workload: ServiceWorkload) -> None:
        workload.baseline.known = Healthy(5.0, 10.0, 5)
        fallback = workload.controls["fallback"]
        assert fallback.read() == 0.0
        fallback.turn(ME, Override("choose", 1.0))
        assert fallback.read() == 1.0
        assert (await service.answer(MAZE)).answer.policy == "ppo"
        assert read(workload)["fallback_share"] == 1.0
        accepted = service.book.counts.accepted

        def is_probed() -> bool:
            return read(workload)["probe_slowdown"] is not None

        await until(is_probed)
        assert service.book.counts.accepted == accepted, "probes are in nobody's accounts"
        assert service.pending == 0
        fallback.undo(ME)
        assert fallback.read() == 0.0
        assert (await service.answer(MAZE)).answer.policy == "hrm"

    play(scene, maze_bundle, tmp_path, policy)


def test_the_baseline_is_learned_from_undisturbed_windows_only(
    sudoku_bundle: Path, asked: list[list[int]], tmp_path: Path
) -> None:
    offered: list[tuple[float, float]] = []

    async def scene(service: Service, workload: ServiceWorkload) -> None:
        workload.baseline.offer = lambda p50, p95, *_: offered.append((p50, p95))  # type: ignore[method-assign]
        for window in range(3):
            await ask(service, 200, asked[0])
            read(workload)
            assert len(offered) == window, "the first window after the start is a warm-up"
        workload.controls["depth"].turn(ME, Override("scale", 0.5))
        for _ in range(2):
            await ask(service, 200, asked[0])
            read(workload)
        assert len(offered) == 2, "at another depth nothing is learned"
        workload.controls["depth"].undo(ME)
        for window in range(3):
            read(workload)
            await ask(service, 200, asked[0])
            read(workload)
            assert len(offered) == 2 + window

    play(scene, sudoku_bundle, tmp_path)


def test_a_new_normal_is_learned_again_when_a_person_says_so(
    sudoku_bundle: Path, asked: list[list[int]], tmp_path: Path
) -> None:
    async def scene(service: Service, workload: ServiceWorkload) -> None:
        workload.baseline.known = Healthy(1e-6, 1e-6, 5)
        await ask(service, 200, asked[0])
        slowdown = read(workload)["slowdown_p95"]
        assert slowdown is not None
        assert slowdown > 1.3
        workload.rebaseline()
        assert workload.baseline.known is None
        assert read(workload)["slowdown_p95"] is None

    play(scene, sudoku_bundle, tmp_path)


def test_answers_from_the_cache_are_in_no_window(sudoku_bundle: Path, asked: list[list[int]], tmp_path: Path) -> None:
    async def scene(service: Service, workload: ServiceWorkload) -> None:
        await ask(service, 300, asked[0])
        row = read(workload)
        assert (row["demand"], row["cached_share"]) == (300.0, 299 / 300)
        assert (len(service.samples), row["latency_p50_ms"]) == (1, None)

    play(scene, sudoku_bundle, tmp_path, config=CACHING)


def test_more_load_than_the_baseline_knows_is_told_and_not_called_slow(
    sudoku_bundle: Path, asked: list[list[int]], tmp_path: Path
) -> None:
    async def scene(service: Service, workload: ServiceWorkload) -> None:
        read(workload)
        await ask(service, 400, asked[0])
        read(workload)
        rate = workload._asked.per_s
        assert rate is not None
        for per_s, is_known in ((rate, True), (rate / 3, False)):
            workload.baseline.known = Healthy(1e-6, 1e-6, 5, 1.0, per_s)
            row = read(workload)
            assert row["load"] == rate / per_s
            assert (row["slowdown_p95"] is not None) is is_known
            assert row["latency_p95_ms"] is not None

    play(scene, sudoku_bundle, tmp_path)


def test_who_is_turned_away_is_counted_over_all_who_asked(
    sudoku_bundle: Path, asked: list[list[int]], tmp_path: Path
) -> None:
    async def turned_away(service: Service) -> None:
        with pytest.raises(Refused):
            await service.answer(asked[0])

    async def scene(service: Service, workload: ServiceWorkload) -> None:
        read(workload)
        os.kill(service.worker_pid, signal.SIGSTOP)
        held = [asyncio.ensure_future(service.answer(asked[0])) for _ in range(50)]
        await asyncio.sleep(0)
        for _ in range(350):
            await turned_away(service)
        os.kill(service.worker_pid, signal.SIGCONT)
        assert read(workload)["refused_share"] == 350 / 400
        await asyncio.gather(*held)
        workload.controls["depth"].turn(ME, Override("scale", 0.5))
        assert read(workload)["refused_share"] is None, "that was under another setting"

    play(scene, sudoku_bundle, tmp_path, config=NARROW)


def test_a_window_that_grew_old_is_no_news() -> None:
    samples, window, asked = Samples(), LatencyWindow(200), AskedWindow(200)
    for number in range(200):
        samples.add(float(number), number + 0.01)
    assert window.take(samples, 1000.0)
    asked.take(0, 0, 0, 998.0)
    asked.take(100, 100, 0, 1000.0)
    assert (window.quantile(0.95), asked.refused_share, asked.per_s) == (pytest.approx(10.0), 0.5, 100.0)
    assert not window.take(samples, 1059.0)
    assert window.quantile(0.95) is not None
    assert not window.take(samples, 1061.0)
    asked.take(101, 100, 0, 1061.0)
    assert (window.quantile(0.95), asked.refused_share, asked.per_s) == (None, None, None)


def test_depth_is_given_back_where_one_of_two_models_allows_less(
    sudoku_bundle: Path, maze_bundle: Path, asked: list[list[int]], tmp_path: Path
) -> None:
    async def main() -> None:
        async with running(Service([sudoku_bundle, maze_bundle], CONFIG), grace_s=20) as service:
            workload = ServiceWorkload(service, lambda key: LatencyBaseline(tmp_path / "baseline.json", key))
            deepest = float(service.deepest)
            assert {model.max_segments for model in service.crew.models.values()} != {service.deepest}
            depth = workload.controls["depth"]
            for by in (0.5, 1.0):
                depth.turn(ME, Override("scale", by))
                for task, puzzle in (("sudoku", asked[0]), ("maze", MAZE)):
                    await service.answer(puzzle, task=task)
                    assert read(workload)["depth_in_force"] == depth.read() == by * deepest
                depth.undo(ME)

    asyncio.run(main())
