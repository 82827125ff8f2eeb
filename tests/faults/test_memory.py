"""Memory faults by measurement: who is killed, what is refused, what is resident."""

from __future__ import annotations

import mmap
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from premortem.core.errors import ConfigError, StageError
from premortem.faults.fault import NotPermitted
from premortem.faults.group import GroupLimit, MemoryGroup, clean_groups, group_refusal
from premortem.faults.memory import AddressSpaceLimit, DeviceFraction, Leak, MemoryLimit
from premortem.machine import memory
from premortem.machine.cgroup import cgroup_of

MIB = 1 << 20
TAKES = "import sys; sys.stdin.readline(); x = bytearray(b'x') * (%d << 20); print('took it', flush=True)"
LIMITED = (
    "from premortem.faults.memory import MemoryLimit\n"
    "with MemoryLimit(48 << 20) as fault:\n"
    "    print(fault.observed().holds, flush=True)\n"
    "    x = bytearray(b'x') * (%d << 20)\n"
    "    del x\n"
    "print(fault.gone().holds, flush=True)\n"
)


@pytest.fixture
def group():
    """A group, or the proof that the refusal is one clear line; the test then ends."""
    made = MemoryGroup()
    if group_refusal():
        with pytest.raises(NotPermitted, match="memory group"):
            made.__enter__()
        yield None
        return
    with made:
        yield made
    assert made.gone().holds


def taking(mib: int, group: MemoryGroup) -> tuple[int, str]:
    with subprocess.Popen(
        [sys.executable, "-c", TAKES % mib], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        group.join(child.pid)
        out, _ = child.communicate("go\n")
        return child.returncode, out.strip()


def test_the_kernel_kills_beyond_the_limit_and_nobody_below(group) -> None:
    if group is None:
        return
    group.limit(64 * MIB)
    assert taking(16, group) == (0, "took it")
    assert group.oom_kills == 0
    assert group.observed().holds is False
    assert taking(128, group) == (-9, "")
    assert group.oom_kills == 1
    assert group.observed().holds


def test_what_a_group_holds_is_counted_and_a_limit_can_be_taken_away(group) -> None:
    if group is None:
        return
    group.limit(64 * MIB)
    group.limit(None)
    assert taking(128, group) == (0, "took it")
    assert group.used < 64 * MIB


def test_what_still_runs_in_a_group_goes_with_it(group) -> None:
    if group is None:
        return
    with MemoryGroup() as inner, subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        inner.join(child.pid)
        assert inner.pids == (child.pid,)
        inner.remove()
        assert child.wait() == -9
    assert inner.oom_kills == 0, "that was not the kernel"


def test_a_group_that_a_killed_process_left_is_cleaned(group) -> None:
    if group is None:
        return
    code = (
        "import os, signal\nfrom premortem.faults.group import MemoryGroup\n"
        "g = MemoryGroup(64 << 20)\ng.__enter__()\nprint(g.group.folder, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    folder = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stdout.strip()
    assert Path(folder).is_dir()
    clean_groups()
    assert not Path(folder).exists()
    assert group.group.folder.is_dir(), "a living owner's stays"


def test_a_limit_below_what_is_held_is_refused_in_words(group) -> None:
    if group is None:
        return
    with subprocess.Popen(
        [sys.executable, "-c", TAKES % 64 + "; input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        group.join(child.pid)
        child.stdin.write(b"go\n")
        child.stdin.flush()
        child.stdout.readline()
        if group.group.version == 1:
            with pytest.raises(StageError, match="limit_in_bytes"):
                group.limit(MIB)
        child.kill()


def test_limits_that_make_no_sense_are_refused() -> None:
    for wrong in (0, -5):
        with pytest.raises(ConfigError, match="expected"):
            MemoryGroup(wrong)
        with pytest.raises(ConfigError, match="expected"):
            MemoryLimit(wrong)
        with pytest.raises(ConfigError, match="expected"):
            AddressSpaceLimit(wrong)
        with pytest.raises(ConfigError, match="expected"):
            Leak(wrong)
        with pytest.raises(ConfigError, match="expected"):
            DeviceFraction(float(wrong))
    with pytest.raises(ConfigError, match="RLIMIT_DATA"):
        AddressSpaceLimit(MIB, "RLIMIT_CORE")
    with pytest.raises(ConfigError, match="enter it first"):
        _ = MemoryGroup().group


@pytest.mark.parametrize(("mib", "ending"), [(16, (0, "True True")), (128, (-9, "True"))])
def test_a_process_limits_its_own_growth(group, mib: int, ending: tuple[int, str]) -> None:
    if group is None:
        return
    done = subprocess.run([sys.executable, "-c", LIMITED % mib], capture_output=True, text=True, check=False)
    assert (done.returncode, " ".join(done.stdout.split())) == ending
    clean_groups()


def test_in_a_group_of_its_parent_the_limit_is_put_there(group) -> None:
    if group is None:
        return
    with subprocess.Popen(
        [sys.executable, "-c", "input()\n" + LIMITED % 128], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        group.join(child.pid)
        child.communicate("\n")
    assert child.returncode == -9
    assert group.observed().holds, "the parent sees why"


def test_the_limit_leaves_this_process_where_it_was(group) -> None:
    if group is None:
        return
    before = cgroup_of()
    with MemoryLimit(1 << 30) as fault:
        assert fault.observed().holds
        assert cgroup_of() != before
    assert cgroup_of() == before
    assert fault.gone().holds


@pytest.mark.parametrize("which", ["RLIMIT_DATA", "RLIMIT_AS"])
def test_an_allocation_beyond_the_address_space_is_refused(which: str) -> None:
    before = resource.getrlimit(getattr(resource, which))
    with AddressSpaceLimit(256 * MIB, which) as fault:
        with pytest.raises(MemoryError):
            bytearray(512 * MIB)
        assert memory.own_limits()[which] is not None
    assert fault.observed().holds
    assert fault.gone().holds
    assert resource.getrlimit(getattr(resource, which)) == before
    assert len(bytearray(512 * MIB)) == 512 * MIB


def test_a_leak_is_resident_and_goes() -> None:
    with Leak(8 * MIB, at_most=40 * MIB) as fault:
        before = memory.resident()
        for _ in range(4):
            fault.leak()
        assert fault.held == 32 * MIB
        assert memory.resident() - before >= 30 * MIB
        fault.leak()
        assert fault.leak() == 40 * MIB, "its most"
        assert fault.gone().holds is False
    assert fault.observed().holds
    assert fault.gone().holds
    assert fault.leak() == 0, "off is off"


def test_a_leak_that_was_never_used_is_no_credit() -> None:
    with Leak(mmap.PAGESIZE) as fault:
        pass
    assert fault.observed().holds is False


def test_what_was_never_entered_is_unknown() -> None:
    for fault in (MemoryGroup(), MemoryLimit(1), AddressSpaceLimit(1), DeviceFraction(0.5)):
        assert fault.observed().holds is None
        assert fault.gone().holds is None


def test_a_share_of_a_device_needs_one() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        with pytest.raises(NotPermitted, match="no device 0"), DeviceFraction(0.5):
            pass
        return
    with DeviceFraction(0.1) as fault, pytest.raises(torch.OutOfMemoryError):
        torch.empty(torch.cuda.get_device_properties(0).total_memory // 5, dtype=torch.uint8, device="cuda")
    assert fault.observed().holds
    assert fault.gone().holds


def test_a_limit_on_a_standing_group_kills_while_it_is_on_only(group) -> None:
    if group is None:
        return
    assert taking(96, group) == (0, "took it")
    with GroupLimit(group, 64 * MIB) as fault:
        assert fault.observed().holds is False, "nobody was killed yet"
        assert taking(96, group) == (-9, "")
        assert fault.observed().holds
        assert fault.gone().holds is False
    assert fault.gone().holds
    assert taking(96, group) == (0, "took it")
    with pytest.raises(ConfigError, match="expected"):
        GroupLimit(group, 0)
