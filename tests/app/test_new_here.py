"""``premortem new --into``: the files it writes, what it says to do next, and the mistakes it names."""

from __future__ import annotations

from pathlib import Path

import pytest

from premortem.app.cli.exits import FINE, MISTAKE


def test_a_risk_of_ones_own_package_is_four_files_that_name_that_package(premortem, tmp_path: Path) -> None:
    said = premortem("new", "serve/too-slow", "--into", "mine_risks", "--json")
    folder = tmp_path / "mine_risks" / "serve" / "too_slow"
    assert (said.code, said.json["folder"], said.json["package"]) == (FINE, str(folder), "mine_risks")
    assert {Path(path).name for path in said.json["files"]} == {
        "risk.py", "drill.py", "test_too_slow.py", "runbook.md",
    }  # fmt: skip
    page = (folder / "risk.py").read_text("utf-8")
    assert page.startswith('"""Too slow')
    assert "from mine_risks.serve.too_slow.risk import RISK" in (folder / "test_too_slow.py").read_text("utf-8")
    for file in folder.glob("*.py"):
        compile(file.read_text("utf-8"), str(file), "exec")


def test_what_to_do_next_is_said(premortem) -> None:
    said = premortem("new", "serve/too-late", "--into", "own_risks")
    assert 'risks="own_risks"' in said.out
    assert "premortem drill serve/too-late" in said.out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("Train/Loss",), "expected STAGE/RISK in small letters"),
        (("loss",), "expected STAGE/RISK"),
        (("serve/too-slow", "--into", "no-name"), "no name for a Python package"),
        (("serve/too-slow", "--into", "file"), "cannot be written"),
    ],
)
def test_mistakes_write_nothing(premortem, tmp_path: Path, arguments: tuple[str, ...], text: str) -> None:
    (tmp_path / "file").write_text("")
    said = premortem("new", *arguments)
    assert said.code == MISTAKE
    assert text in said.err.replace("\n", " ")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_same_name_twice_keeps_the_first(premortem, tmp_path: Path) -> None:
    premortem("new", "serve/too-slow", "--into", "mine_twice")
    risk = tmp_path / "mine_twice" / "serve" / "too_slow" / "risk.py"
    risk.write_text("# mine\n")
    assert premortem("new", "serve/too-slow", "--into", "mine_twice").code == MISTAKE
    assert risk.read_text() == "# mine\n"
