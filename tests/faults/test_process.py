"""Real signals to real children; the wait status, asked by the parent itself, is the witness."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from premortem.core.errors import ConfigError
from premortem.faults.fault import RemovalFailed
from premortem.faults.process import Killed, Stopped

SLEEP = "import time; time.sleep(60)"
CATCHES = (
    "import signal, sys, time\n"
    "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
    "print('ready', flush=True)\n"
    "time.sleep(60)\n"
)
IGNORES = CATCHES.replace("lambda *_: sys.exit(7)", "signal.SIG_IGN")


@pytest.fixture
def start() -> Iterator:
    children = []

    def begin(code: str) -> subprocess.Popen[str]:
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        children.append(child)
        return child

    yield begin
    for child in children:
        child.kill()
        child.wait()
        child.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_child_dies_of_the_signal(start, number: signal.Signals) -> None:
    child = start(SLEEP)
    with Killed(child, number) as fault:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert fault.observed().holds, "before the owner reaps it"
        assert child.wait() == -number
    assert fault.observed().holds
    assert fault.gone().holds


def test_a_child_is_known_by_its_pid_alone(start) -> None:
    child = start(SLEEP)
    with Killed(child.pid) as fault:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert fault.observed().holds
    child.wait()
    assert fault.observed().holds is None, "the status was taken by another"


def test_a_child_that_catches_the_signal_and_ends_counts(start) -> None:
    child = start(CATCHES)
    child.stdout.readline()
    with Killed(child, signal.SIGTERM) as fault:
        assert child.wait() == 7
    assert fault.observed().holds
    assert "exit code 7 after SIGTERM" in fault.observed().detail


def test_a_child_that_ignores_the_signal_is_inconclusive(start) -> None:
    child = start(IGNORES)
    child.stdout.readline()
    with Killed(child, signal.SIGTERM) as fault:
        pass
    assert fault.observed().holds is None
    assert fault.gone().holds


def test_the_signal_waits_for_its_condition(start, tmp_path: Path) -> None:
    child, mark = start(SLEEP), tmp_path / "step-100"
    with Killed(child, after=mark.exists) as fault:
        assert fault.observed().holds is False
        assert fault.gone().holds is False
        assert child.poll() is None
        mark.touch()
        assert child.wait() == -signal.SIGKILL
    assert fault.observed().holds


@pytest.mark.parametrize("raised", [RuntimeError, KeyboardInterrupt])
def test_leaving_early_calls_the_signal_off(start, raised: type[BaseException]) -> None:
    child, now = start(SLEEP), threading.Event()
    fault = Killed(child, after=now.is_set)
    with pytest.raises(raised), fault:
        raise raised
    now.set()
    assert fault.gone().holds
    assert child.poll() is None
    assert fault.observed().holds is False


def test_a_watcher_that_is_left_behind_is_seen_by_gone(start) -> None:
    class Sticky(Killed):
        def _undo(self) -> None:
            pass

    child = start(SLEEP)
    with Sticky(child, after=lambda: False) as fault:
        pass
    assert fault.gone().holds is False
    Killed._undo(fault)
    assert fault.gone().holds


def test_a_signal_that_is_still_pending_is_seen_by_gone(start) -> None:
    child = start(
        "import signal, time\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    child.stdout.readline()
    with Killed(child, signal.SIGTERM) as fault:
        pass
    assert fault.gone().holds is False
    assert "pending" in fault.gone().detail


def test_a_condition_that_raises_is_reported(start) -> None:
    child = start(SLEEP)
    fault = Killed(child, after=lambda: 1 / 0 > 0)
    with pytest.raises(RemovalFailed, match="ZeroDivisionError"), fault:
        fault._watcher.join()
    assert fault.observed().holds is False
    fault.remove()
    assert fault.gone().holds


def test_a_child_that_died_by_other_hands_is_no_credit(start) -> None:
    child = start(SLEEP)
    with Killed(child, after=lambda: False) as fault:
        child.kill()
        child.wait()
    assert fault.observed().holds is False


def test_strangers_are_refused() -> None:
    for pid in (os.getppid(), os.getpid(), 2**22 - 1):
        with pytest.raises(ConfigError, match="no running child"), Killed(pid):
            pass


COUNTS = (
    "import itertools, sys\nfor n in itertools.count():\n    print(n, flush=True)\n    __import__('time').sleep(0.01)\n"
)


def test_a_stopped_child_stands_still_and_then_goes_on(start) -> None:
    child = start(COUNTS)
    child.stdout.readline()
    with Stopped(child) as fault:
        assert psutil.Process(child.pid).status() == psutil.STATUS_STOPPED
        assert fault.observed().holds
        assert fault.gone().holds is False
        assert child.poll() is None
    assert fault.gone().holds
    assert psutil.Process(child.pid).status() != psutil.STATUS_STOPPED
    before = int(child.stdout.readline())
    assert int(child.stdout.readline()) == before + 1


def test_a_child_killed_while_it_is_stopped_is_gone(start) -> None:
    child = start(SLEEP)
    with Stopped(child.pid) as fault:
        child.kill()
        child.wait()
    assert fault.observed().holds
    assert fault.gone().holds


def test_only_own_children_are_stopped() -> None:
    for pid in (os.getppid(), os.getpid(), 2**22 - 1):
        with pytest.raises(ConfigError, match="no running child"), Stopped(pid):
            pass
    assert Stopped(os.getppid()).gone().holds is None
