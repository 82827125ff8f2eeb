"""A command that is started and kept: its streams, its signals, its end, and nothing left of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from premortem.core.errors import ConfigError
from premortem.stages.process.child import Child, Start
from premortem.stages.process.group import LimitedGroup, LimitNotPermitted
from premortem.stages.process.terminal import Streams
from premortem.stages.process.tree import environment_of


@contextmanager
def started(code: str, *, grace_s: float = 2.0, group: Path | None = None, **environment: str) -> Iterator[Child]:
    with Streams(lambda line: None) as streams:
        child = Child(Start(
            command=(sys.executable, "-c", textwrap.dedent(code)), streams=streams.handed, grace_s=grace_s,
            group=group, environment={**os.environ, **environment},
        ))  # fmt: skip
        streams.let_go()
        try:
            yield child
        finally:
            child.close()


def eventually(holds: Callable[[], bool]) -> bool:
    until = time.monotonic() + 20
    while not holds() and time.monotonic() < until:
        time.sleep(0.02)
    return holds()


@pytest.mark.parametrize("code", [0, 3, 255])
def test_its_exit_code_is_its_own(code: int) -> None:
    with started(f"import sys; sys.exit({code})") as child:
        assert child.wait() == code


def test_a_signal_that_ended_it_is_told() -> None:
    with started("import os; os.kill(os.getpid(), 9)") as child:
        assert child.wait() == -signal.SIGKILL


def test_output_passes_byte_for_byte_and_is_heard_by_line(tmp_path: Path) -> None:
    heard: list[str] = []
    with (tmp_path / "out").open("wb") as out, Streams(heard.append, stdout=out.fileno()) as streams:
        code = "import sys; sys.stdout.buffer.write(bytes(range(256)) * 4000 + b'\\nlast line without an end')"
        child = Child(Start(command=(sys.executable, "-c", code), streams=streams.handed))
        streams.let_go()
        child.wait()
        child.close()
    assert (tmp_path / "out").read_bytes() == bytes(range(256)) * 4000 + b"\nlast line without an end"
    assert heard[-1] == "last line without an end"
    assert len(heard) >= 4000


def test_it_gets_exactly_the_environment_that_it_was_given() -> None:
    with started("import time; time.sleep(60)", PREMORTEM_TEST="a=b") as child:
        found = environment_of(child.pid)
        assert found == {**os.environ, "PREMORTEM_TEST": "a=b"}


def test_signals_are_as_a_shell_would_give_them() -> None:
    code = """
        import signal, sys
        own = [s for s in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD) if signal.getsignal(s) != signal.SIG_DFL]
        sys.exit(len(own))
    """
    with started(code) as child:
        assert child.wait() == 0


def test_it_is_asked_to_end_and_may_save(tmp_path: Path) -> None:
    code = f"""
        import signal, sys, time
        def save(number, frame):
            open({str(tmp_path / "saved")!r}, "w").write("all")
            sys.exit(5)
        signal.signal(signal.SIGTERM, save)
        open({str(tmp_path / "ready")!r}, "w").close()
        while True: time.sleep(1)
    """
    with started(code, grace_s=20) as child:
        assert eventually((tmp_path / "ready").exists)
        child.stop()
        assert child.status == 5
    assert (tmp_path / "saved").read_text() == "all"


def test_one_that_is_deaf_is_killed_after_the_grace(tmp_path: Path) -> None:
    code = f"""
        import signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        open({str(tmp_path / "ready")!r}, "w").close()
        while True: time.sleep(1)
    """
    with started(code, grace_s=0.4) as child:
        assert eventually((tmp_path / "ready").exists)
        child.stop()
        assert child.status == -signal.SIGKILL


def test_a_stopped_one_is_woken_to_hear_that_it_shall_end() -> None:
    with started("import time; time.sleep(60)", grace_s=20) as child:
        child.send(signal.SIGSTOP)
        assert eventually(lambda: child.tree.look().is_stopped)
        child.stop()
        assert child.status == -signal.SIGTERM


def test_a_shell_and_what_it_waits_for_end_together() -> None:
    with Streams(lambda line: None) as streams:
        child = Child(Start(command=("sh", "-c", "sleep 300; echo never"), streams=streams.handed, grace_s=20))
        streams.let_go()
        assert eventually(lambda: child.tree.look().num == 2)
        began = time.monotonic()
        child.stop()
        assert time.monotonic() - began < 15
        assert child.tree.pids() == []
        child.close()


def test_what_daemonised_itself_does_not_stay() -> None:
    code = """
        import os, time
        if os.fork() == 0:
            os.setsid()
            if os.fork(): os._exit(0)
            time.sleep(300)
        os.wait()
    """
    with started(code, grace_s=0.5) as child:
        assert eventually(lambda: child.status is not None)
        (stray,) = child.tree.pids()
        assert child.wait() == 0
        assert child.left_behind == 1
        assert eventually(lambda: not psutil.pid_exists(stray))


def test_a_killed_supervisor_leaves_nothing(tmp_path: Path) -> None:
    code = f"""
        import sys, time
        from premortem.stages.process.child import Child, Start
        child = Child(Start(command=("sh", "-c", "sleep 300 & sleep 300"), grace_s=0.5))
        while child.tree.look().num < 3: time.sleep(0.02)
        open({str(tmp_path / "pids")!r}, "w").write(" ".join(map(str, child.tree.pids())))
        print("ready", flush=True)
        time.sleep(300)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE) as supervisor:
        assert supervisor.stdout is not None
        assert supervisor.stdout.readline() == b"ready\n"
        pids = [int(word) for word in (tmp_path / "pids").read_text().split()]
        assert len(pids) == 3
        supervisor.kill()
        supervisor.wait()
        assert eventually(lambda: not any(map(psutil.pid_exists, pids)))


def test_memory_of_a_forked_tree_is_counted_once() -> None:
    code = """
        import os, time
        held = bytearray(64 << 20)
        for at in range(0, len(held), 4096): held[at] = 1
        for _ in range(3):
            if os.fork() == 0: break
        time.sleep(60)
    """
    with started(code) as child:
        assert eventually(lambda: child.tree.look().num == 4)
        assert 64 << 20 <= child.tree.look().memory < 128 << 20


@pytest.mark.parametrize(("command", "found"), [("no-such-command", "does not exist"), (__file__, "cannot be exec")])
def test_what_cannot_be_started_is_one_clear_line(command: str, found: str) -> None:
    with pytest.raises(ConfigError, match=found) as raised:
        Child(Start(command=(command,)))
    assert "\n" not in str(raised.value)


def test_a_limit_of_its_own_is_really_kept() -> None:
    if not may_limit():
        with pytest.raises(LimitNotPermitted, match=r"run as root|no memory controller"):
            LimitedGroup(64 << 20)
        return
    with LimitedGroup(64 << 20) as limited:
        with started("held = b'x' * (200 << 20)", group=limited.procs) as child:
            assert child.wait() == -signal.SIGKILL
        assert limited.group.oom_kills == 1
    assert not limited.group.folder.exists()


def may_limit() -> bool:
    try:
        LimitedGroup(64 << 20).close()
    except LimitNotPermitted:
        return False
    return True
