"""Runs a peer's script in its own environment over the rows, each of which it takes in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.board.peer import DISK
from benchmarks.board.venvs import HERE

from premortem.faults.disk import FullTmpfs
from premortem.faults.fault import NotPermitted

Outcome = dict[str, Any]
DISK_BYTES = 128 << 20


def run_rows(python: Path, name: str, rows: list[str], *, seed: int = 0, limit_s: float = 240.0) -> dict[str, Outcome]:
    """By row, what it did to the peer; rows that kill or fill are started again afterwards, with the first as such."""
    with contextlib.ExitStack() as stack:
        outcomes: dict[str, Outcome] = {}
        folders: list[tuple[str, str]] = []
        for row in rows:
            try:
                folders.append((row, str(stack.enter_context(_folder(row)))))
            except NotPermitted as error:
                outcomes[row] = {"ended": "not run", "why": str(error)}
        here = stack.enter_context(tempfile.TemporaryDirectory(prefix="premortem-board-"))  # where a peer stands
        command = [str(python), "-P", str(HERE / "peers" / f"{name}.py"), "--rows", json.dumps(folders)]
        command += ["--seed", str(seed), "--limit", str(limit_s)]
        found = subprocess.run(command, capture_output=True, text=True, env=_environment(), cwd=here, check=False)
    lines = [json.loads(line) for line in found.stdout.splitlines() if line.startswith('{"row"')]
    outcomes |= {line.pop("row"): line for line in lines}
    why = f"exit {found.returncode} {' '.join(found.stderr.strip().splitlines()[-1:])[:200]}"
    return {row: outcomes.get(row, {"ended": "not run", "why": why}) for row in rows}


@contextlib.contextmanager
def _folder(row: str) -> Iterator[Path]:
    if row == DISK:
        with FullTmpfs(DISK_BYTES, leave_bytes=None) as fault:
            yield fault.folder
        return
    with tempfile.TemporaryDirectory(prefix="premortem-board-") as folder:
        yield Path(folder)


def _environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PREMORTEM"))}
    one_thread = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    return kept | one_thread | {"PYTHONPATH": str(HERE), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
