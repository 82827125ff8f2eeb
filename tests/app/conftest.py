"""One real guarded run for all tests of this folder: the main job, its fault, its evidence."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from premortem.app.cli.main import main


@dataclass(frozen=True)
class Said:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Said]


def call(*arguments: str, folder: Path, **environment: str) -> Said:
    """The console script in a process of its own, as a user calls it."""
    ran = subprocess.run(
        [sys.executable, "-m", "premortem.app.cli.main", *arguments],
        cwd=folder, capture_output=True, text=True, check=False, timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip
    return Said(ran.returncode, ran.stdout, ran.stderr)


@pytest.fixture(scope="session")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Said]:
    """A folder in which the main job ran, and what it said."""
    folder = tmp_path_factory.mktemp("ran")
    return folder, call("run", "--json", folder=folder)


@pytest.fixture
def after_run(ran: tuple[Path, Said], tmp_path: Path) -> Path:
    """A copy of its evidence, to be read or spoilt."""
    shutil.copytree(ran[0] / ".premortem", tmp_path / ".premortem", ignore=shutil.ignore_patterns("runs"))
    return tmp_path


@pytest.fixture
def premortem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command line in an empty folder, or in the one that ``after_run`` prepared; in this process, to be quick."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PREMORTEM_LEDGER", raising=False)

    def run(*arguments: str) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([*arguments])
        said = capsys.readouterr()
        assert isinstance(left.value.code, int)
        return Said(left.value.code, said.out, said.err)

    return run
