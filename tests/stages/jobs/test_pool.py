"""A pool of real processes: who runs, who is started again, who is given up, and what can be told to it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from premortem.core.action import Override, Owner
from premortem.core.errors import ConfigError
from premortem.faults.group import MemoryGroup, group_refusal
from premortem.stages.jobs.job import Job, State
from premortem.stages.jobs.pool import JobPool
from premortem.stages.jobs.workload import SIGNALS, JobsWorkload

MIB = 1 << 20
COUNTS = """
import json, os, signal, sys, time
path, last = sys.argv[1], int(sys.argv[2])
at = json.load(open(path))["at"] if os.path.exists(path) else 0
ended = []
signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
while at < last:
    time.sleep(0.02)
    at += 1
    given = json.load(open(os.environ["PREMORTEM_SETTINGS"]))
    json.dump({"at": at, "accumulate": given["accumulate"], "device": os.environ.get("CUDA_VISIBLE_DEVICES")},
              open(path + ".new", "w"))
    os.replace(path + ".new", path)
    if ended:
        sys.exit(143)
"""
TAKES = "import time; x = bytearray(b'x') * (%d << 20); time.sleep(0.3)"


@pytest.fixture
def pool(tmp_path: Path):
    made: list[JobPool] = []

    def make(*jobs: Job, **options) -> JobPool:
        made.append(JobPool(jobs, tmp_path / "pool", **{"slots": 2, **options}))
        return made[-1]

    yield make
    for one in made:
        one.close()


def counting(tmp_path: Path, name: str, last: int = 10) -> Job:
    return Job(name=name, command=(sys.executable, "-c", COUNTS, str(tmp_path / name), str(last)))


def script(name: str, code: str, **more) -> Job:
    return Job(name=name, command=(sys.executable, "-c", code), **more)


def until(pool: JobPool, holds: Callable[[], bool], seconds: float = 60.0) -> int:
    """Steps until it holds; returns how many were killed meanwhile."""
    killed, end = 0, time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, [(seat.job.name, seat.state, seat.last) for seat in pool.seats]
        killed += pool.step()
        time.sleep(0.01)
    return killed


def test_all_jobs_come_to_their_end_so_many_at_once(pool, tmp_path: Path) -> None:
    jobs = pool(*(counting(tmp_path, name) for name in "abcd"), slots=2)
    most = 0
    while not jobs.is_over:
        jobs.step()
        most = max(most, len(jobs.working))
        time.sleep(0.01)
    assert most == 2
    assert jobs.count(State.DONE) == 4
    assert jobs.kills == 0


def test_a_killed_job_goes_on_from_where_it_stood(pool, tmp_path: Path) -> None:
    jobs = pool(counting(tmp_path, "a", last=60))
    until(jobs, lambda: (tmp_path / "a").exists())
    seat = jobs.seats[0]
    seat.child.send(9)
    stood = json.loads((tmp_path / "a").read_text())["at"]
    until(jobs, lambda: seat.restarts == 1)
    assert "killed" in seat.last.cause.value
    until(jobs, lambda: jobs.is_over)
    assert seat.state is State.DONE
    assert json.loads((tmp_path / "a").read_text())["at"] == 60 > stood


def test_an_error_that_repeats_is_given_up_at_once(pool) -> None:
    jobs = pool(script("bad", "raise ValueError('always the same at %d' % __import__('os').getpid())"), restarts=9)
    until(jobs, lambda: jobs.is_over)
    assert jobs.seats[0].restarts == 2
    assert jobs.seats[0].state is State.GIVEN_UP
    assert not jobs.seats[0].has_given_up_for_memory
    assert "always the same" in jobs.seats[0].last.words


def test_a_job_without_memory_is_given_up_after_its_tries_and_gets_new_ones(pool) -> None:
    if why := group_refusal():
        assert "memory group" in why
        return
    with MemoryGroup(48 * MIB) as group:
        jobs = pool(script("large", TAKES % 96), group=group.group, restarts=1)
        assert until(jobs, lambda: jobs.is_over) == 2
        seat = jobs.seats[0]
        assert seat.last.words == "killed by the kernel for memory, exit 137"
        assert seat.has_given_up_for_memory
        group.limit(None)
        jobs.run_at_most(1)
        assert until(jobs, lambda: jobs.is_over) == 0
        assert seat.state is State.DONE
        jobs.close()


def test_fewer_slots_end_the_newest_in_good_order(pool, tmp_path: Path) -> None:
    jobs = pool(*(counting(tmp_path, name, last=40) for name in "abc"), slots=3)
    until(jobs, lambda: all((tmp_path / name).exists() for name in "abc"))
    jobs.run_at_most(1)
    assert [seat.job.name for seat in jobs.working] == ["a"]
    assert jobs.count(State.WAITING) == 2
    assert all(seat.restarts == 0 for seat in jobs.seats)
    until(jobs, lambda: jobs.is_over)
    assert jobs.count(State.DONE) == 3


def test_settings_reach_a_job_at_its_next_start(pool, tmp_path: Path) -> None:
    jobs = pool(counting(tmp_path, "a", last=30))
    workload = JobsWorkload(jobs)
    until(jobs, lambda: (tmp_path / "a").exists())
    assert json.loads((tmp_path / "a").read_text())["accumulate"] == 1
    owner = Owner(1, "accumulate gradients")
    workload.controls["accumulate"].turn(owner, Override("scale", 4.0))
    assert workload.controls["accumulate"].read() == 4.0
    until(jobs, lambda: jobs.is_over)
    assert json.loads((tmp_path / "a").read_text())["accumulate"] == 4
    assert jobs.settings.micro_batch == 0.25
    workload.controls["accumulate"].undo(owner)
    assert workload.controls["accumulate"].read() == 1.0
    assert jobs.settings.micro_batch == 1.0


def test_the_last_resort_is_one_at_a_time_on_the_cpu(pool, tmp_path: Path) -> None:
    jobs = pool(*(counting(tmp_path, name, last=20) for name in "ab"), slots=2)
    workload = JobsWorkload(jobs)
    until(jobs, lambda: all((tmp_path / name).exists() for name in "ab"))
    control = workload.controls["placement"]
    assert control.read() == "as it is"
    control.turn(Owner(1, "last"), Override("choose", "serial on the cpu #1.1"))
    assert control.read() == "serial on the cpu #1.1"
    until(jobs, lambda: jobs.is_over)
    assert jobs.count(State.DONE) == 2
    assert json.loads((tmp_path / "b").read_text())["device"] == ""


def test_a_model_that_idles_takes_no_slot_and_can_be_unloaded(pool, tmp_path: Path) -> None:
    waits = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(0)); time.sleep(600)"
    jobs = pool(script("model", waits, holds_model=True), counting(tmp_path, "a", last=20), slots=1)
    workload = JobsWorkload(jobs)
    until(jobs, lambda: (tmp_path / "a").exists())
    assert jobs.models_held == 1
    control = workload.controls["idle_models"]
    assert control.read() == "as they are"
    control.turn(Owner(1, "unload"), Override("choose", "unloaded #1.1"))
    assert control.read() == "unloaded #1.1"
    until(jobs, lambda: jobs.is_over)
    assert jobs.models_held == 0, "it is not started again"
    assert jobs.count(State.DONE) == 1


def test_the_slots_read_what_runs_and_not_what_was_asked(pool, tmp_path: Path) -> None:
    jobs = pool(*(counting(tmp_path, name, last=200) for name in "abc"), slots=3)
    control = JobsWorkload(jobs).controls["slots"]
    until(jobs, lambda: len(jobs.working) == 3)
    owner = Owner(1, "fewer")
    control.turn(owner, Override("scale", 0.5))
    assert control.read() == 1.5
    assert len(jobs.working) == 1
    jobs.slots = 3  # someone else sets it back
    jobs.step()
    assert control.read() == 3.0
    control.turn(owner, Override("scale", 0.5))
    control.undo(owner)
    assert control.read() == 3.0


def test_a_row_has_a_value_for_every_signal(pool, tmp_path: Path) -> None:
    workload = JobsWorkload(pool(counting(tmp_path, "a", last=3)))
    row = workload.look()
    assert len(row) == len(SIGNALS)
    named = dict(zip((signal.name for signal in SIGNALS), row, strict=True))
    assert (named["killed"], named["running"], named["slots"]) == (0.0, 1.0, 2.0)
    assert 0.0 < named["memory_share"] < 1.0


def test_what_makes_no_sense_is_refused(pool, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unique"):
        pool(counting(tmp_path, "a"), counting(tmp_path, "a"))
    with pytest.raises(ConfigError, match="slots"):
        pool(counting(tmp_path, "a"), slots=0)
    with pytest.raises(ConfigError, match="nothing-of-that-name"):
        pool(Job(name="x", command=("nothing-of-that-name",))).step()
