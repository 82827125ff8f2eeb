"""Real processes that compete for a real core; the kernel's account of CPU time is the witness."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from premortem.core.errors import ConfigError
from premortem.faults.cpu import CpuHogs


@pytest.fixture
def busy() -> Iterator[int]:
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    yield child.pid
    child.kill()
    child.wait()


def test_neighbours_take_their_share_of_the_victims_only_core(busy: int) -> None:
    before = os.sched_getaffinity(busy)
    others = {child.pid for child in psutil.Process().children()}
    fault = CpuHogs(2, busy)
    with fault:
        assert len(os.sched_getaffinity(busy)) == 1
        hogs = {child.pid for child in psutil.Process().children()} - others
        assert len(hogs) == 2
        assert all(os.sched_getaffinity(hog) == os.sched_getaffinity(busy) for hog in hogs)
        while not fault.observed().holds:
            pass
        assert fault.gone().holds is False
    assert fault.observed().holds
    assert fault.gone().holds
    assert os.sched_getaffinity(busy) == before
    assert not any(psutil.pid_exists(hog) for hog in hogs)


def test_every_thread_of_the_victim_is_held_and_let_go() -> None:
    code = "import threading; threading.Thread(target=threading.Event().wait).start(); print('up', flush=True)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as victim:
        assert victim.stdout is not None
        victim.stdout.readline()
        threads = [int(entry.name) for entry in Path(f"/proc/{victim.pid}/task").iterdir()]
        assert len(threads) == 2
        before = [os.sched_getaffinity(thread) for thread in threads]
        with CpuHogs(1, victim.pid):
            assert [len(os.sched_getaffinity(thread)) for thread in threads] == [1, 1]
        assert [os.sched_getaffinity(thread) for thread in threads] == before
        victim.kill()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="with one core nobody can be held to fewer")
def test_a_thread_that_is_born_on_the_one_core_is_let_go_too() -> None:
    code = (
        "import sys, threading\n"
        "for line in sys.stdin:\n"
        "    threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "    print('up', flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as victim:
        assert victim.stdin is not None
        assert victim.stdout is not None
        before = os.sched_getaffinity(victim.pid)
        with CpuHogs(1, victim.pid) as fault:
            victim.stdin.write(b"another\n")
            victim.stdin.flush()
            victim.stdout.readline()
            (born,) = {int(entry.name) for entry in Path(f"/proc/{victim.pid}/task").iterdir()} - {victim.pid}
            assert len(os.sched_getaffinity(born)) == 1
        assert os.sched_getaffinity(born) == before
        assert fault.gone().holds
        os.sched_setaffinity(born, {max(before)})
        assert fault.gone().holds is False, "what is held now counts, whoever holds it"
        victim.kill()


def test_it_can_be_put_on_again(busy: int) -> None:
    fault = CpuHogs(1, busy)
    assert fault.gone().holds is None
    for _ in range(2):
        with fault:
            assert fault.gone().holds is False
        assert fault.gone().holds


def test_a_victim_that_ended_meanwhile_leaves_nothing_behind(busy: int) -> None:
    fault = CpuHogs(1, busy)
    with fault:
        psutil.Process(busy).kill()
        psutil.Process(busy).wait()
    assert fault.gone().holds


def test_what_cannot_be_is_refused(busy: int) -> None:
    with pytest.raises(ConfigError, match="expected at least 1"):
        CpuHogs(0, busy)
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    with pytest.raises(ConfigError, match="is not there"), CpuHogs(1, ended.pid):
        pass
