"""What is read of memory, held against memory that is really taken and against what psutil says."""

from __future__ import annotations

import mmap
import os
import resource
import subprocess
import sys

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from premortem.machine import memory
from premortem.machine.files import OpenFile, field, number
from premortem.machine.pressure import pressure
from premortem.machine.reader import MemoryReader

MIB = 1 << 20
HOLDS = "import sys; x = bytearray(b'x') * (48 << 20); print('ready', flush=True); sys.stdin.readline()"


@pytest.fixture
def child():
    with subprocess.Popen([sys.executable, "-c", HOLDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        yield process
        process.communicate(b"\n")


def touched(size: int) -> mmap.mmap:
    block = mmap.mmap(-1, size)
    for at in range(0, size, mmap.PAGESIZE):
        block[at] = 1
    return block


def test_resident_memory_is_what_another_reader_says(child) -> None:
    for pid in (child.pid, None):
        assert memory.resident(pid) == pytest.approx(psutil.Process(pid).memory_info().rss, rel=0.05)


def test_a_tree_counts_its_children(child) -> None:
    own, tree = memory.resident(), memory.resident_of_tree()
    assert own is not None
    assert tree is not None
    assert tree - own >= 48 * MIB


def test_the_peak_stays_until_it_is_reset() -> None:
    block = touched(32 * MIB)
    before = memory.peak_resident()
    block.close()
    assert before is not None
    assert memory.peak_resident() >= before - MIB, "the kernel adds up what each core counted, so it is not exact"
    if memory.reset_peak():
        assert memory.peak_resident() < before - 16 * MIB
    else:
        assert memory.peak_resident() >= before - MIB, "where it cannot be reset it stays, and the caller is told"


def test_a_process_that_is_not_there_is_unknown() -> None:
    nobody = 2**22 - 1
    assert memory.resident(nobody) is None
    assert memory.resident_of_tree(nobody) is None
    assert memory.peak_resident(nobody) is None
    assert memory.reset_peak(nobody) is False
    assert MemoryReader(nobody).read().resident is None


def test_room_names_the_limit_that_comes_first() -> None:
    code = (
        "import resource, sys\n"
        "from premortem.machine import memory\n"
        "from premortem.machine.reader import MemoryReader\n"
        "size = int(next(l for l in open('/proc/self/status') if l.startswith('VmData')).split()[1]) << 10\n"
        f"resource.setrlimit(resource.RLIMIT_DATA, (size + {96 * MIB}, resource.RLIM_INFINITY))\n"
        "room = memory.room()\n"
        "read = MemoryReader().read()\n"
        "print(room.by, room.left, read.by, read.left, memory.own_limits()['RLIMIT_DATA'] == size + (96 << 20))"
    )
    by, left, read_by, read_left, told = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert by == read_by == "RLIMIT_DATA"
    assert int(left) == pytest.approx(96 * MIB, rel=0.1)
    assert int(read_left) == pytest.approx(int(left), rel=0.1)
    assert told == "True"


def test_the_reader_sees_what_is_taken_at_once() -> None:
    reader = MemoryReader()
    before = reader.read()
    block = touched(64 * MIB)
    after = reader.read()
    block.close()
    assert before.resident is not None
    assert after.resident is not None
    assert after.resident - before.resident >= 60 * MIB
    assert 0 <= after.share <= 1
    reader.close()
    assert reader.read().resident is not None, "closed is not broken"


def test_the_reader_leaves_no_file_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        reader = MemoryReader()
        reader.read()
        reader.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_limits_of_this_process_are_sane() -> None:
    found = memory.limits()
    assert found == tuple(sorted(found, key=lambda limit: limit.left))
    assert all(limit.allowed > 0 and limit.used >= 0 and limit.by for limit in found)
    assert (memory.own_limits()["RLIMIT_AS"] is None) == (resource.getrlimit(resource.RLIMIT_AS)[0] < 0)


def test_pressure_is_shares_and_seconds(tmp_path) -> None:
    file = tmp_path / "memory.pressure"
    file.write_text(
        "some avg10=12.50 avg60=1.00 avg300=0.10 total=2500000\nfull avg10=6.00 avg60=0.50 avg300=0 total=1\n"
    )
    found = pressure(file)
    assert found is not None
    assert (found.some_10s, found.full_10s, found.some_seconds) == (0.125, 0.06, 2.5)
    assert pressure(tmp_path / "none") is None
    file.write_text("nothing of the kind")
    assert pressure(file) is None


@given(st.integers(0, 1 << 60), st.text("abc_ ", max_size=20))
def test_a_field_is_found_at_the_start_of_a_line_only(value: int, other: str) -> None:
    text = f"x{other}key 7\nkey {value}\nother key 9\n".encode()
    assert field(text, b"key ") == value
    assert field(text[len(f"x{other}key 7\n") :], b"key ") == value
    assert field(text, b"absent ") is None


@given(st.binary(max_size=40))
def test_whatever_stands_in_a_file_nothing_raises(text: bytes) -> None:
    assert number(text) is None or isinstance(number(text), int)
    assert field(text, b"key") is None or isinstance(field(text, b"key"), int)


def test_unlimited_is_no_number() -> None:
    assert number(b"max\n") is None
    assert number(b"9223372036854771712\n") is None
    assert number(b"1048576\n") == MIB
    assert number(None) is None


def test_an_open_file_that_went_away_is_unknown(tmp_path) -> None:
    file = OpenFile(tmp_path / "value")
    assert file.read() is None
    (tmp_path / "value").write_text("3")
    assert file.read() == b"3"
    (tmp_path / "value").write_text("4")
    assert file.read() == b"4"
