"""Killed at random points, a guarded run goes on to its end, and nothing that was acknowledged is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SOAK = Path(__file__).parents[2] / "benchmarks" / "kill_soak.py"


def test_ten_kills_and_a_sigterm_lose_nothing_and_one_edited_byte_is_found(tmp_path: Path) -> None:
    memory = Path("/dev/shm")  # a kill takes nothing from a page cache, so memory is as good a disk, and fast
    home = memory if os.access(memory, os.W_OK) else tmp_path
    # a process of its own: it forks its lives, which a process with threads must not
    done = subprocess.run(
        [sys.executable, str(SOAK), "--kills", "10", "--seed", "3", "--json", "--home", str(home)],
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    report = json.loads(done.stdout)
    assert report["problems"] == [], done.stderr
    assert report["kills"] == 10
    assert report["terminations"] >= 1
    assert report["rounds"] >= 2
    assert report["acknowledged"] > 50
    assert report["edits_found"] == report["bytes_edited"] == report["rounds"]
