"""The house keeps its sizes and its layers: what ruff and import-linter do not measure."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "premortem"
FILES = sorted(SRC.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
def test_a_file_is_one_thing_and_fits_300_lines(path: Path) -> None:
    if not path.name.startswith("test_"):
        assert len(path.read_text("utf-8").splitlines()) <= 300


@pytest.mark.parametrize("page", sorted(SRC.glob("risks/*/*/risk.py")), ids=lambda p: p.parent.name)
def test_a_risk_page_is_read_in_two_minutes(page: Path) -> None:
    assert len(page.read_text("utf-8").splitlines()) <= 130


@pytest.mark.parametrize("page", sorted(SRC.glob("risks/**/*.py")), ids=lambda p: str(p.relative_to(SRC)))
def test_a_risk_looks_only_down(page: Path) -> None:
    if page.name.startswith("test_"):
        return
    above = ("premortem.run", "premortem.app", "premortem.adapters")
    assert [name for name in _imports(page) if name == "premortem" or name.startswith(above)] == []


@pytest.mark.parametrize("page", sorted(SRC.glob("risks/*/*/*.py")), ids=lambda p: str(p.relative_to(SRC)))
def test_risks_are_strangers_to_each_other(page: Path) -> None:
    own = "premortem.risks." + ".".join(page.relative_to(SRC / "risks").parts[:2])
    others = [n for n in _imports(page) if n.startswith("premortem.risks.") and not n.startswith(own)]
    assert [name for name in others if name != "premortem.risks.case"] == []


def _imports(page: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(page.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(node.module or "")
    return found


@pytest.mark.parametrize("module", ["premortem", "premortem.run.discover", "premortem.registers.load"])
def test_the_risk_plane_loads_neither_torch_nor_numpy(module: str) -> None:
    code = (
        f"import sys, {module}\n"
        "from premortem.run.discover import find_risks\n"
        "[found.load() for found in find_risks().values()]\n"
        "heavy = {'torch', 'numpy', 'transformers'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
