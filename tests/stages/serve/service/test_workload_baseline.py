"""The healthy latency is learned once, outlives the process, and no slow start can become it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from premortem.stages.serve.service.latency_baseline import WINDOWS, LatencyBaseline, key_of

KEY = key_of("sudoku", "step-00000007", 4)
HEALTHY = [(9.0, 14.0), (10.0, 15.0), (11.0, 16.0), (10.5, 15.5), (9.5, 30.0)]


def learned(path: Path) -> LatencyBaseline:
    baseline = LatencyBaseline(path, KEY)
    for p50, p95 in HEALTHY:
        baseline.offer(p50, p95)
    return baseline


def test_it_is_the_median_of_five_healthy_windows(tmp_path: Path) -> None:
    path = tmp_path / "home" / "latency-baseline.json"
    baseline = LatencyBaseline(path, KEY)
    for number, (p50, p95) in enumerate(HEALTHY):
        assert baseline.known is None
        assert number < WINDOWS
        baseline.offer(p50, p95)
    assert baseline.known is not None
    assert (baseline.known.p50_ms, baseline.known.p95_ms) == (10.0, 15.5)
    assert baseline.fault == ""


def test_windows_that_differ_too_much_are_no_healthy_normal(tmp_path: Path) -> None:
    baseline = LatencyBaseline(tmp_path / "b.json", KEY)
    for p50 in (10.0, 10.0, 10.0, 10.0, 14.0, 10.0, 10.0, 10.0, 10.0):
        baseline.offer(p50, 2 * p50)
        assert baseline.known is None
    baseline.offer(10.0, 20.0)
    assert baseline.known is not None, "the outlier has left the newest five"


def test_a_disturbance_begins_it_anew(tmp_path: Path) -> None:
    baseline = LatencyBaseline(tmp_path / "b.json", KEY)
    for p50, p95 in HEALTHY[:4]:
        baseline.offer(p50, p95)
    baseline.disturbed()
    baseline.offer(*HEALTHY[4])
    assert baseline.known is None


def test_a_slow_start_after_the_process_was_killed_does_not_become_it(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from premortem.stages.serve.service.latency_baseline import LatencyBaseline\n"
        "b = LatencyBaseline(Path(sys.argv[1]), sys.argv[2])\n"
        "for _ in range(5): b.offer(10.0, 20.0)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(path), KEY], check=False)
    assert ended.returncode == -signal.SIGKILL
    again = LatencyBaseline(path, KEY)
    assert again.known is not None, "known from the first moment"
    for _ in range(50):
        again.offer(100.0, 200.0)
    assert (again.known.p50_ms, again.known.p95_ms) == (10.0, 20.0)
    assert LatencyBaseline(path, KEY).known == again.known


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"format": "other", "entries": {}}', '{"format": "premortem-latency-baseline-1"}',
     '{"format": "premortem-latency-baseline-1", "entries": {"k": {"p50_ms": -1, "p95_ms": 2, "windows": 5}}}',
     '{"format": "premortem-latency-baseline-1", "entries": {"k": {"p50_ms": 1}}}',
     '{"format": "premortem-latency-baseline-1", "entries": {"k": {"p50_ms": NaN, "p95_ms": 1, "windows": 5}}}'],
)  # fmt: skip
def test_a_damaged_file_is_unknown_and_never_overwritten_in_silence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "b.json"
    path.write_text(text, "utf-8")
    baseline = learned(path)
    assert baseline.known is None
    assert str(path) in baseline.fault
    assert "\n" not in baseline.fault
    assert "rebaseline" in baseline.fault
    assert path.read_text("utf-8") == text
    baseline.forget()
    assert baseline.fault == ""
    assert path.with_suffix(".unreadable").read_text("utf-8") == text
    for p50, p95 in HEALTHY:
        baseline.offer(p50, p95)
    assert LatencyBaseline(path, KEY).known == baseline.known
    assert baseline.known is not None


def test_only_a_person_has_it_learned_again(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    baseline = learned(path)
    baseline.forget()
    assert baseline.known is None
    assert LatencyBaseline(path, KEY).known is None
    for _ in range(WINDOWS):
        baseline.offer(50.0, 80.0)
    again = LatencyBaseline(path, KEY).known
    assert again is not None
    assert again.p50_ms == 50.0


def test_services_share_a_file_and_leave_each_others_entries(tmp_path: Path) -> None:
    path, other = tmp_path / "b.json", key_of("maze", "step-00000001", 8)
    mine, theirs = LatencyBaseline(path, KEY), LatencyBaseline(path, other)
    for _ in range(WINDOWS):
        mine.offer(1.0, 2.0)
        theirs.offer(3.0, 4.0)
    assert LatencyBaseline(path, KEY).known == mine.known
    assert LatencyBaseline(path, other).known == theirs.known
    mine.forget()
    assert LatencyBaseline(path, other).known == theirs.known


def test_a_folder_that_cannot_be_written_is_told_and_nothing_raises(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", "utf-8")
    baseline = learned(tmp_path / "file" / "b.json")
    assert baseline.known is None
    assert "could not be kept" in baseline.fault or "no latency baseline" in baseline.fault


def test_depth_and_machine_are_part_of_the_key() -> None:
    assert key_of("maze", "m", 4) != key_of("maze", "m", 8)
    assert key_of("maze", "m", 4) == key_of("maze", "m", 4)
    assert key_of("maze", "m", 4).rpartition("×")[2].strip().isdecimal()
