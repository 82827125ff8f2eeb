"""A spool keeps every whole record through kills, torn lines and full disks, and gives each number once."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from premortem.core.errors import ConfigError, StageError
from premortem.faults.disk import FullTmpfs
from premortem.faults.fault import NotPermitted
from premortem.stages import tracking
from premortem.stages.tracking.folder import Folder
from premortem.stages.tracking.reader import Reader, last_number
from premortem.stages.tracking.record import Logged, from_line, to_line
from premortem.stages.tracking.spool import Spool

finite_or_not = st.floats(allow_nan=True, allow_infinity=True)


@given(st.integers(1), st.integers(), st.floats(0, 4e9), st.dictionaries(st.text(), finite_or_not))
def test_a_record_comes_back_as_it_was(n: int, step: int, wall: float, values: dict[str, float]) -> None:
    n, step = n % 2**53, step % 2**53
    found = from_line(to_line(Logged(n, step, wall, dict(values))).rstrip(b"\n"))
    assert found is not None
    assert (found.n, found.step, found.t) == (n, step, wall)
    assert repr(found.values) == repr(values)


@given(st.integers(0, 200), st.integers(0, 255))
def test_a_line_that_was_cut_or_changed_is_no_record(at: int, by: int) -> None:
    line = to_line(Logged(7, 8, 9.0, {"loss": 0.5, "acc": 1.0})).rstrip(b"\n")
    cut = line[: at % len(line)]
    assert from_line(cut) is None
    changed = bytearray(line)
    changed[at % len(line)] ^= by
    assert by == 0 or from_line(bytes(changed)) is None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 4000)), min_size=1, max_size=5))
def test_cut_anywhere_and_written_on_each_whole_record_is_read_once_in_order(lives: list[tuple[int, int]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as home:
        path = Path(home) / "spool.jsonl"
        given_last = 0
        for count, cut in lives:
            last = max(given_last, last_number(path)[0] if path.exists() else 0)
            spool = Spool(path, last)
            for i in range(count):
                spool.append(i, 1.0, {"x": float(i)})
            spool.close()
            given_last = spool.last
            size = path.stat().st_size
            os.truncate(path, max(0, size - cut % 97))  # what a power loss takes from the end
        whole = [r.n for line in path.read_bytes().split(b"\n") if (r := from_line(line)) is not None]
        reader, read = Reader(path), []
        while placed := reader.read(3):
            read += [p.record.n for p in placed]
        assert read == whole == sorted(set(whole))


def test_what_is_logged_survives_a_kill_of_the_process(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from premortem.stages.tracking.spool import Spool\n"
        "spool = Spool(Path(sys.argv[1]), 0)\n"
        "while True:\n"
        "    spool.append(spool.last, time.time(), {'loss': 1.0})\n"
        "    if spool.last % 50 == 0: print(spool.last, flush=True)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "s")], stdout=subprocess.PIPE)
    assert child.stdout is not None
    told = 0
    while told < 500:
        told = int(child.stdout.readline())
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    last, damaged = last_number(tmp_path / "s")
    assert last >= told
    assert damaged == 0


def test_a_full_disk_holds_nothing_up_and_loses_nothing(tmp_path: Path) -> None:
    place = FullTmpfs(1 << 20, leave_bytes=None)
    if not may_mount():
        with pytest.raises(NotPermitted, match="mount"), place:
            pass
        return
    with place:
        spool = Spool(place.folder / "s", 0)
        ballast = place.folder / "ballast"
        spool.append(0, 1.0, {"x": 1.0})
        with ballast.open("wb", buffering=0) as stream:
            try:
                while True:
                    stream.write(b"0" * 4096)
            except OSError:
                pass
        kept = [spool.append(i, 1.0, {"x" * 50: 1.0}) for i in range(1, 300)]
        assert not all(kept)
        assert spool.failures > 0
        assert spool.fault.startswith(str(place.folder))
        ballast.unlink()
        assert spool.flush()
        assert spool.failures == 0
        spool.close()
        assert last_number(place.folder / "s") == (300, 0)


def may_mount() -> bool:
    try:
        with FullTmpfs(1 << 20):
            return True
    except NotPermitted:
        return False


def test_a_forked_child_writes_nothing_into_its_parents_spool(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from premortem.stages.tracking.spool import Spool\n"
        "spool = Spool(Path(sys.argv[1]), 0)\n"
        "spool.append(0, 1.0, {'x': 1.0})\n"
        "pid = os.fork()\n"
        "kept = spool.append(1, 1.0, {'x': 2.0})\n"
        "if pid == 0: os._exit(int(kept))\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "s")], check=False).returncode == 0
    assert last_number(tmp_path / "s") == (2, 0)


def test_logging_takes_what_is_a_number_and_says_what_is_not(tmp_path: Path) -> None:
    import torch

    tracker = tracking.open({"tensorboard": str(tmp_path / "tb")}, project="p", run="r", spool=tmp_path, mode="local")
    with pytest.warns(RuntimeWarning, match="'note' is no number"):
        tracker.log({"loss": torch.tensor(0.5), "note": "text", "acc": 1, "bad": math.nan}, step=3)
    tracker.log({"note": "text"}, step=4)  # said once
    with pytest.warns(RuntimeWarning, match="such records are left out"):
        tracker.log({"loss": 0.5}, step="x")  # type: ignore[arg-type]
    tracker.log(None, step=5)  # type: ignore[arg-type]
    with pytest.warns(RuntimeWarning, match="premortem sync"):
        assert tracker.close() == 3
    first = Reader(Folder(tmp_path / "r").spool).read(1)[0].record
    assert first.v == {"loss": 0.5, "acc": 1.0, "bad": "nan"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"backends": "mlfow"}, "did you mean 'mlflow'"),
        ({"backends": []}, "found no backend"),
        ({"backends": None}, "expected names such as 'mlflow'"),
        ({"backends": {"mlflow": "http://me:secret@host"}}, "put it into the environment"),
        ({"run": "../elsewhere"}, "expected letters"),
        ({"mode": "onlin"}, "expected one of online, offline, local"),
    ],
)
def test_a_users_mistake_is_one_clear_line(tmp_path: Path, arguments: dict[str, object], told: str) -> None:
    given: dict[str, object] = {"backends": "tensorboard", "project": "p", "spool": tmp_path, **arguments}
    with pytest.raises(ConfigError, match=told):
        tracking.open(given.pop("backends"), **given)  # type: ignore[arg-type]


def test_a_spool_of_another_run_is_refused_and_untouched(tmp_path: Path) -> None:
    place = {"tensorboard": str(tmp_path / "tb")}
    with pytest.warns(RuntimeWarning, match="wait for their tracker"):
        tracking.open(place, project="one", run="r", spool=tmp_path, mode="local", close_s=0.1).close()
    before = (tmp_path / "r" / "spool.jsonl").read_bytes()
    with pytest.raises(ConfigError, match=r"spool of another run \(project 'one'\)"):
        tracking.open(place, project="two", run="r", spool=tmp_path, mode="local")
    (tmp_path / "r" / "run.json").write_bytes(b'{"id": "x"')
    with pytest.raises(StageError, match="no whole description"):
        tracking.open(place, project="one", run="r", spool=tmp_path, mode="local")
    assert (tmp_path / "r" / "spool.jsonl").read_bytes() == before


def test_a_second_tracker_of_one_process_and_a_killed_sender(tmp_path: Path) -> None:
    place = {"tensorboard": str(tmp_path / "tb")}
    tracker = tracking.open(place, project="p", run="r", spool=tmp_path, close_s=60)
    with pytest.raises(ConfigError, match="close that tracker first"):
        tracking.open(place, project="p", run="r", spool=tmp_path)
    assert tracker._sender is not None
    tracker._sender.kill()
    tracker._sender.wait()
    for step in range(600):
        tracker.log({"loss": 1.0}, step)
    assert tracker._sender.poll() is None
    assert tracker.close() == 0


def test_two_processes_never_write_one_spool(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from premortem.stages import tracking\n"
        "t = tracking.open({'tensorboard': sys.argv[1] + '/tb'}, project='p', run='r', spool=sys.argv[1],"
        " mode='local')\n"
        "print('open', flush=True); sys.stdin.read()\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdin is not None
    assert child.stdout.readline() == b"open\n"
    with pytest.raises(ConfigError, match="another process writes"):
        tracking.open({"tensorboard": str(tmp_path / "tb")}, project="p", run="r", spool=tmp_path, mode="local")
    child.kill()
    child.wait()
    child.stdin.close()
    child.stdout.close()
    until = time.monotonic() + 10
    while Folder(tmp_path / "r").is_held("writer") and time.monotonic() < until:
        time.sleep(0.05)
    again = tracking.open(
        {"tensorboard": str(tmp_path / "tb")}, project="p", run="r", spool=tmp_path, mode="local", close_s=5
    )
    with pytest.warns(RuntimeWarning, match="wait for their tracker"):
        again.close()
