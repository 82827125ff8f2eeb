"""What is installed is what is meant to be: every page and register, and no test."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_wheel_holds_all_data_files_and_no_test(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path / "dist", _copy(tmp_path)],
        check=True,
        capture_output=True,
    )
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert [name for name in names if Path(name).name.startswith("test_")] == []
    source = ROOT / "src"
    data = {
        str(path.relative_to(source))
        for path in (source / "premortem").rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert data - names == set()
    assert "premortem/risks/train/divergence/risk.py" in names


def _copy(tmp_path: Path) -> Path:
    """Built from a copy, so that no build folder is left in the checkout."""
    copy = tmp_path / "source"
    names = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "src")
    subprocess.run(["cp", "-r", "--parents", *names, _made(copy)], check=True, cwd=ROOT)
    return copy


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
