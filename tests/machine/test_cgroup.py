"""Groups as the kernel lays them out: the real one of this machine, and trees of files in the form of each version."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from premortem.faults.fault import NotPermitted
from premortem.faults.group import MemoryGroup, group_refusal
from premortem.machine.cgroup import Cgroup, cgroup_of
from premortem.machine.memory import room
from premortem.machine.reader import MemoryReader

MIB = 1 << 20


def machine(tmp_path: Path, version: int, path: str, root: str = "/") -> tuple[Path, Path]:
    """A /proc and a mount of the controller, with the group of process 7 at `path`."""
    mount, proc = tmp_path / "mount", tmp_path / "proc"
    (mount / path.strip("/")).mkdir(parents=True)
    for pid in ("7", "self"):
        (proc / pid).mkdir(parents=True)
    kind = "cgroup2 cgroup2 rw" if version == 2 else "cgroup cgroup rw,memory"
    (proc / "self" / "mountinfo").write_text(
        f"30 20 0:1 / /elsewhere rw - tmpfs tmpfs rw\n31 20 0:2 {root} {mount} rw,nosuid shared:9 - {kind}\n"
    )
    return mount, proc


def member(proc: Path, line: str) -> None:
    (proc / "7" / "cgroup").write_text(line + "\n")


def fill(folder: Path, version: int, limit: str, usage: int, inactive: int = 0) -> None:
    names = {1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
             2: ("memory.max", "memory.current", "inactive_file")}[version]  # fmt: skip
    (folder / names[0]).write_text(limit + "\n")
    (folder / names[1]).write_text(f"{usage}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file_x 77\n{names[2]} {inactive}\n")
    (folder / "cgroup.controllers").write_text("cpu io memory pids\n")


def test_version_2_is_read(tmp_path: Path) -> None:
    mount, proc = machine(tmp_path, 2, "/job/step")
    member(proc, "0::/job/step")
    step = mount / "job" / "step"
    fill(step, 2, "max", 30 * MIB, 10 * MIB)
    fill(mount / "job", 2, str(40 * MIB), 32 * MIB, 10 * MIB)
    (step / "memory.events").write_text("low 0\nhigh 0\nmax 4\noom 2\noom_kill 2\noom_group_kill 0\n")
    (step / "memory.peak").write_text(f"{39 * MIB}\n")
    (step / "memory.pressure").write_text("some avg10=50.00 avg60=0.00 avg300=0.00 total=10\n")
    group = cgroup_of(7, proc)
    assert group == Cgroup(step, mount, 2)
    assert (group.name, group.usage, group.working_set, group.limit) == ("/job/step", 30 * MIB, 20 * MIB, None)
    assert (group.oom_kills, group.peak) == (2, 39 * MIB)
    assert group.pressure.some_10s == 0.5
    limit, by = group.tightest
    assert (limit, by.name) == (40 * MIB, "/job")


def test_version_1_is_read(tmp_path: Path) -> None:
    mount, proc = machine(tmp_path, 1, "/a/b")
    member(proc, "3:cpu,cpuacct:/x\n2:memory:/a/b\n0::/")
    fill(mount / "a" / "b", 1, str(64 * MIB), 20 * MIB, 4 * MIB)
    fill(mount / "a", 1, "9223372036854771712", 60 * MIB)
    fill(mount, 1, "9223372036854771712", 600 * MIB)
    (mount / "a" / "b" / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    group = cgroup_of(7, proc)
    assert (group.version, group.name, group.working_set, group.oom_kills) == (1, "/a/b", 16 * MIB, 1)
    assert [one.name for one in group.line] == ["/a/b", "/a", "/"]
    assert group.tightest == (64 * MIB, group)


def test_an_ancestor_that_does_not_count_its_children_limits_nobody(tmp_path: Path) -> None:
    mount, proc = machine(tmp_path, 1, "/a/b")
    member(proc, "2:memory:/a/b")
    fill(mount / "a", 1, str(MIB), 0)
    (mount / "a" / "memory.use_hierarchy").write_text("0\n")
    assert cgroup_of(7, proc).tightest is None


def test_a_container_sees_its_own_group_as_the_top(tmp_path: Path) -> None:
    mount, proc = machine(tmp_path, 1, "", root="/docker/abc")
    for path in ("/docker/abc", "/", "/../other"):
        member(proc, f"2:memory:{path}")
        assert cgroup_of(7, proc) == Cgroup(mount, mount, 1)


def test_version_2_without_its_memory_controller_is_unknown(tmp_path: Path) -> None:
    mount, proc = machine(tmp_path, 2, "/job")
    member(proc, "0::/job")
    (mount / "job" / "cgroup.controllers").write_text("cpu io\n")
    assert cgroup_of(7, proc) is None


def test_nothing_there_is_unknown(tmp_path: Path) -> None:
    assert cgroup_of(7, tmp_path) is None
    group = Cgroup(tmp_path, tmp_path, 2)
    assert (
        group.usage is group.limit is group.oom_kills is group.working_set is group.tightest is group.pressure is None
    )


def test_a_move_and_a_new_limit_are_noticed_by_a_running_reader() -> None:
    group = MemoryGroup()
    if group_refusal():
        with pytest.raises(NotPermitted, match="memory group"):
            group.__enter__()
        return
    group.__enter__()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        reader = MemoryReader(child.pid)
        assert "premortem" not in reader.read().by
        group.join(child.pid)
        group.limit(32 * MIB)
        assert group.group.name in reader.read().by
        assert reader.read().allowed == 32 * MIB
        assert room(child.pid).by == reader.read().by
        group.limit(None)
        assert group.group.name not in reader.read().by
    finally:
        child.kill()
        child.communicate()
        group.remove()
    assert group.gone().holds
