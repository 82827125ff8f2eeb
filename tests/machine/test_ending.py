"""Real processes that end in every way, and what is said of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from premortem.faults.fault import NotPermitted
from premortem.faults.group import MemoryGroup, group_refusal
from premortem.machine.ending import Cause, Witnesses, ending, from_wait_status, kernel_kills, signature

TAKES = "import sys; sys.stdin.readline(); x = bytearray(b'x') * (128 << 20)"


def run(code: str, shell: bool = False) -> tuple[int, list[str]]:
    command = f"{sys.executable} -c '{code}'; exit $?" if shell else [sys.executable, "-c", code]
    done = subprocess.run(command, shell=shell, stderr=subprocess.PIPE, text=True, check=False)
    return done.returncode, done.stderr.splitlines()


def test_a_kill_for_memory_is_known_by_the_group_and_by_the_kernels_log() -> None:
    group = MemoryGroup(32 << 20)
    if group_refusal():
        with pytest.raises(NotPermitted, match="memory group"):
            group.__enter__()
        assert ending(-9).cause is Cause.KILLED_UNKNOWN, "without a witness it stays open"
        return
    with group, subprocess.Popen([sys.executable, "-c", TAKES], stdin=subprocess.PIPE) as child:
        group.join(child.pid)
        before = group.oom_kills
        child.communicate(b"\n")
        found = ending(child.returncode, Witnesses(before, group.oom_kills))
        assert found.words == "killed by the kernel for memory, exit 137"
        assert found.for_memory
        if (killed := kernel_kills()) is not None:
            assert child.pid in killed
            assert ending(child.returncode, Witnesses(pid=child.pid)).cause is Cause.KILLED_FOR_MEMORY


def test_a_kill_by_somebody_is_not_memory() -> None:
    code, _ = run("import os; os.kill(os.getpid(), 9)")
    assert ending(code, Witnesses(3, 3)).cause is Cause.KILLED
    assert ending(code, Witnesses(3, 3)).words == "killed by somebody, exit 137"
    assert not ending(code).for_memory


def test_a_shell_and_a_parent_tell_the_same_ending() -> None:
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV):
        direct, _ = run(f"import os; os.kill(os.getpid(), {int(number)})")
        through, _ = run(f"import os; os.kill(os.getpid(), {int(number)})", shell=True)
        assert direct == -number
        assert through == 128 + number
        assert ending(direct).signature == ending(through).signature
        assert ending(direct).signal == ending(through).signal == number.name


def test_a_wait_status_is_read() -> None:
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", "raise SystemExit(7)"], os.environ)
    found = from_wait_status(os.waitpid(pid, 0)[1])
    assert (found.cause, found.code, found.words) == (Cause.EXIT, 7, "ended by itself with an error, exit 7")


def test_an_error_names_its_last_line_and_its_class() -> None:
    code, tail = run("raise MemoryError")
    found = ending(code, Witnesses(tail=tail))
    assert found.cause is Cause.OUT_OF_MEMORY
    assert found.trouble.kind == "host_oom"
    code, tail = run("import nothing_of_that_name")
    found = ending(code, Witnesses(tail=tail))
    assert (found.cause, found.code, found.trouble.kind) == (Cause.EXIT, 1, "import_error")
    assert found.words.endswith("No module named 'nothing_of_that_name'")


def test_a_worker_that_was_killed_makes_it_memory_whatever_the_code() -> None:
    assert ending(1, Witnesses(0, 1)).cause is Cause.OUT_OF_MEMORY
    assert ending(0, Witnesses(0, 1)).cause is Cause.FINISHED


def test_the_error_is_found_above_what_is_printed_after_it() -> None:
    tail = ["Traceback (most recent call last):", "ValueError: bad row 7", "wandb: run ended", ""]
    assert ending(1, Witnesses(tail=tail)).last_line == "ValueError: bad row 7"
    assert ending(1, Witnesses(tail=["no word of it"])).last_line == "no word of it"
    assert ending(None).words == "how it ended is unknown"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ValueError: row 3 of 7e-5 at 0x7f01", "ValueError: row 12 of 0.25 at 0xffff0a"),
        ("2026-01-01 10:00:00,5 no /tmp/run-a1/x.pt here", "2027-12-31T23:59:59Z no /tmp/z here"),
        ("job 0f8fad5b-d9cb-469f-a165-70867728950e died", "job 7c9e6679-7425-40de-944b-e07fc1f90ae7 died"),
    ],
)
def test_what_changes_each_time_is_no_difference(one: str, other: str) -> None:
    assert signature(1, one) == signature(1, other)


def test_other_errors_and_codes_are_different() -> None:
    assert signature(1, "ValueError: a") != signature(1, "ValueError: b")
    assert signature(1, "ValueError: a") != signature(2, "ValueError: a")


@given(st.integers(-80, 400), st.lists(st.text(max_size=80), max_size=4))
def test_whatever_it_is_something_is_said(code: int, tail: list[str]) -> None:
    found = ending(code, Witnesses(0, 0, tail=tail))
    assert found.words
    assert (found.cause is Cause.FINISHED) == (code == 0)
    assert found.signature == ending(code, Witnesses(0, 0, tail=tail)).signature
