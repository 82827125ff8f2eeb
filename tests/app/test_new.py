"""A new risk is one folder: found by register, explain, drill and the contract suite, with no edit elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, with a risk made by the command."""
    copy = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    said = _run(copy, "-m", "premortem.app.cli.main", "new", "train/loss-jumps")
    assert said.returncode == 0, said.stderr
    return copy


def _run(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )


def _premortem(checkout: Path, *arguments: str) -> str:
    said = _run(checkout, "-m", "premortem.app.cli.main", *arguments)
    assert said.returncode == 0, said.stderr
    return said.stdout


def test_its_four_files_are_there(checkout: Path) -> None:
    folder = checkout / "src/premortem/risks/train/loss_jumps"
    names = {path.name for path in folder.iterdir() if path.is_file()}
    assert names == {"__init__.py", "risk.py", "drill.py", "test_loss_jumps.py", "runbook.md"}


def test_register_and_explain_find_it(checkout: Path) -> None:
    assert "train/loss-jumps" in _premortem(checkout, "register", "list")
    page = _premortem(checkout, "explain", "train/loss-jumps")
    assert "Loss jumps" in page
    assert "First five minutes" in page


def test_its_own_test_passes_and_ruff_and_mypy_have_nothing_to_say(checkout: Path) -> None:
    folder = "src/premortem/risks/train/loss_jumps"
    for arguments in (
        ["-m", "pytest", "-q", folder], ["-m", "ruff", "check", folder], ["-m", "ruff", "format", "--check", folder],
    ):  # fmt: skip
        said = _run(checkout, *arguments)
        assert said.returncode == 0, said.stdout + said.stderr


def test_the_contract_suite_takes_it_as_it_stands(checkout: Path) -> None:
    suite = ROOT / "tests" / "risks" / "test_contract.py"
    said = _run(checkout, "-m", "pytest", "-q", str(suite), "-k", "train/loss-jumps and not entry_of_a_register")
    assert said.returncode == 0, said.stdout + said.stderr
    assert "no tests ran" not in said.stdout


def test_drill_finds_it_without_a_register(checkout: Path) -> None:
    """Only that it is bound and ready: what a drill proves takes minutes, and ``make drill`` shows it."""
    code = (
        "from premortem.app.cli.draft import draft_register\nfrom premortem.run.drill import find_entries\n"
        "from premortem.run.guard import Guard\n"
        "with draft_register(['train/loss-jumps']) as path:\n"
        "    (found,) = find_entries([], str(path))\n    print(found[1].risks[0].risk, len(Guard(path).active))"
    )
    said = _run(checkout, "-c", code)
    assert said.stdout.split() == ["train/loss-jumps", "1"], said.stderr


def test_the_same_name_twice_is_a_mistake(checkout: Path) -> None:
    said = _run(checkout, "-m", "premortem.app.cli.main", "new", "train/loss-jumps")
    assert said.returncode == 2
    assert "is there already" in said.stderr


def test_a_package_of_ones_own_is_named_with_its_entry_point(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text("")
    into = tmp_path / "mine" / "risks"
    said = _premortem(checkout, "new", "serve/too-slow", "--into", str(into))
    assert '"mine.risks"' in said.replace(" = ", "") or 'mine-risks = "mine.risks"' in said
    risk = into / "serve" / "too_slow"
    assert "from mine.risks.serve.too_slow.risk import" in (risk / "test_too_slow.py").read_text()
    environment = {**os.environ, "PYTHONPATH": f"{checkout / 'src'}:{tmp_path}"}
    code = "import mine.risks.serve.too_slow.risk as r; print(r.RISK.workload)"
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert ran.stdout.strip() == "training", ran.stderr
