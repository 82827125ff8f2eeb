"""``premortem replay`` as a user calls it: exit codes, JSON, pictures, mistakes."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from premortem.app.cli.exits import FINDINGS, FINE, MISTAKE
from premortem.app.report.replayed import example_log


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return example_log(tmp_path / "train <b>$x.csv")


def test_a_log_with_trouble_says_when_and_what_and_leaves_with_1(premortem, log: Path) -> None:
    said = premortem("replay", str(log), "--onset", "2600")
    assert said.code == FINDINGS
    assert "RED divergence (DEF-1)" in said.out
    assert "cut the learning rate" in said.out
    assert "steps later" in said.out
    assert "Nothing was turned" in said.out
    assert "nonfinite_weights" in said.out  # what the log cannot show is said


def test_json_holds_the_timeline_and_the_false_alarms_of_a_healthy_log(premortem, log: Path) -> None:
    found = premortem("replay", str(log), "--healthy", "--json").json
    assert 2600 <= found["first"]["step"] <= 2650
    assert found["false_alarms"]["events"] == found["incidents"] == 1
    assert found["columns"]["lr"] == "learning rate"
    assert found["timeline"][0]["would_have_tried_first"] == "cut the learning rate"


def test_a_healthy_log_leaves_with_0(premortem, tmp_path: Path) -> None:
    example_log(tmp_path / "well.csv", steps=1300)
    said = premortem("replay", "well.csv", "--healthy")
    assert said.code == FINE, said.out
    assert "Nothing found" in said.out
    assert "0 false incidents" in said.out


def test_pictures_and_a_page_that_stands_alone(premortem, log: Path, tmp_path: Path) -> None:
    said = premortem("replay", str(log), "--picture", "a.svg", "--html", "out/a.html", "--json")
    assert said.json["written"] == ["a.svg", "out/a.html"]
    assert ET.fromstring((tmp_path / "a.svg").read_text("utf-8")).tag.endswith("svg")
    page = (tmp_path / "out" / "a.html").read_text("utf-8")
    assert "train &lt;b&gt;$x.csv" in page
    assert "<b>" not in page
    assert "<script" not in page
    assert premortem("replay", str(log), "--picture", "a.png").code == FINDINGS
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_the_users_columns_and_another_register(premortem, tmp_path: Path) -> None:
    (tmp_path / "log").write_text("it,ce\n" + "".join(f"{i},{2.0 + i % 3 * 0.01}\n" for i in range(50)))
    said = premortem(
        "replay", "log", "--columns", "ce=loss", "--columns", "it=step", "--register", "agent-forge", "--json"
    )
    assert said.code == FINE, said.err
    assert said.json["register"] == "agent-forge"
    assert said.json["columns"] == {"ce": "loss", "it": "step"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nothing.csv"], "cannot be read"),
        (["."], "without event files"),
        (["log", "--columns", "loss"], "expected NAME=SIGNAL"),
        (["log", "--columns", "los=loss"], "did you mean 'loss'"),
        (["log", "--register", "hrn"], "did you mean 'hrm'"),
        (["log", "--picture", "a.gif"], ".svg or .png"),
        (["log", "--html", "/proc/nowhere/a.html"], "cannot be written"),
        (["log", "--only", "run=1"], "no column 'run'"),
        (["bad"], "line 3"),
    ],
    ids=" ".join,
)
def test_a_mistake_is_one_line_and_exit_code_2(premortem, tmp_path: Path, arguments: list[str], told: str) -> None:
    (tmp_path / "log").write_text("step,loss\n1,2.0\n2,2.1\n")
    (tmp_path / "bad").write_text('{"step": 1, "loss": 2}\n{"step": 2, "loss": 2}\n{"step"\n{"step": 4, "loss": 2}\n')
    said = premortem("replay", *arguments)
    assert (said.code, said.out) == (MISTAKE, "")
    assert told in said.err
    assert len(said.err.strip().splitlines()) == 1


def test_a_replay_and_a_check_load_no_tensor_library(tmp_path: Path) -> None:
    example_log(tmp_path / "log.csv", steps=50)
    for arguments in (["replay", "log.csv"], ["check", "storage", "registers", "flags"]):
        code = (
            "import sys\nfrom premortem.app.cli.main import main\n"
            f"try: main({arguments!r})\nexcept SystemExit as left: assert not left.code, left.code\n"
            "sys.exit(', '.join({'torch', 'numpy', 'matplotlib', 'tensorboard'} & set(sys.modules)) or 0)"
        )
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
        assert ran.returncode == 0, ran.stderr
