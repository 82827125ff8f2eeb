"""Every mistake is one line with the right exit code, and never a traceback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from premortem.app.cli.exits import FAULT, FINDINGS, FINE, INTERRUPTED, MISTAKE, guarded_exit
from premortem.core.errors import BugError, ConfigError, StageError


def one_line(text: str) -> str:
    lines = text.strip().splitlines()
    assert len(lines) == 1, text
    assert lines[0].startswith("premortem: ")
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["drill"], "expected ENTRY..., --register R for all active ones in it, or --all"),
        (["drill", "HRM-9.1.11"], "did you mean 'HRM-9.1.1'?"),
        (["drill", "UT-R007"], "is planned"),
        (["drill", "train/divergense"], "did you mean 'train/divergence'?"),
        (["drill", "HRM-9.1.1", "--all"], "leave one out"),
        (["drill", "HRM-9.1.1", "--seeds", "0"], "--seeds"),
        (["gate"], "gate --list"),
        (["gate", "prooofs"], "did you mean 'proofs'?"),
        (["gate", "merge", "--measured", "total coverage"], "SIGNAL=NUMBER"),
        (["gate", "merge", "--measured", "total coverag=90", "--by", "ci"], "did you mean 'total coverage'?"),
        (["gate", "merge", "--measured", "total coverage=90"], "--by NAME"),
        (["explain", "train/divergense"], "did you mean 'train/divergence'?"),
        (["explain", "UT-R007"], "is planned"),
        (["register", "show", "HRM-9.1.11"], "did you mean 'HRM-9.1.1'?"),
        (["register", "validate", "no-such.yaml"], "no such file"),
        (["register", "lst"], "lst"),
        (["run", "trane"], "did you mean 'train'?"),
        (["run", "--fault", "poisen"], "did you mean 'poison'?"),
        (["run", "--register", "hrn"], "did you mean 'hrm'?"),
        (["run", "--seed", "one"], "--seed"),
        (["new", "Train/X"], "small letters"),
        (["incidents", "list"], "no file was found"),
        (["incidents", "show", "0"], "x>=1"),
        (["ledger", "verify"], "premortem run"),
        (["report"], "no file was found"),
        (["no-such-command"], "no-such-command"),
    ],
    ids=" ".join,
)
def test_a_users_mistake_is_one_line_and_exit_code_2(premortem, arguments, told) -> None:
    said = premortem(*arguments)
    assert (said.code, said.out) == (MISTAKE, "")
    assert told in one_line(said.err)


def test_with_json_a_mistake_is_an_object_too(premortem) -> None:
    said = premortem("gate", "nonsense", "--json")
    assert said.json["exit"] == MISTAKE
    assert "nonsense" in said.json["error"]


def test_a_register_shows_every_mistake_with_its_line(premortem, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("schema: premortem/v1\nregister: mine\ntitle: t\nsource: s\nentryes: []\n")
    said = premortem("register", "validate", "bad.yaml")
    assert said.code == MISTAKE
    assert "bad.yaml:5: $.entryes" in said.err
    assert "Traceback" not in said.err


def test_a_file_that_is_no_ledger_is_one_line(premortem, tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_bytes(b"not a database" * 100)
    said = premortem("incidents", "list", "--ledger", "ledger.db")
    assert said.code == FINDINGS
    assert "not an SQLite database" in one_line(said.err)


@pytest.mark.parametrize("place", ["/proc/nowhere/report.html", "/dev/full/report.html"])
def test_a_report_that_cannot_be_written_is_one_line(premortem, after_run: Path, place: str) -> None:
    said = premortem("report", "--html", place)
    assert said.code == MISTAKE
    assert "cannot be written" in one_line(said.err)


def test_a_full_disk_leaves_the_old_report_as_it_was(after_run: Path) -> None:
    report = after_run / ".premortem" / "report.html"
    before = report.read_bytes()
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from premortem.app.report.place import write_whole\nfrom premortem.app.cli.exits import guarded_exit\n"
        "from pathlib import Path\nresource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        f"sys.exit(guarded_exit(lambda: write_whole(Path({str(report)!r}), 'x' * 100_000, 'report'), []))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == MISTAKE
    assert "File too large" in one_line(ran.stderr)
    assert report.read_bytes() == before
    assert [p.name for p in report.parent.iterdir() if p.name.startswith(".report")] == []


def _raise(error: BaseException):
    def act() -> None:
        raise error

    return act


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("c"), MISTAKE), (StageError("s"), FINDINGS), (BugError("b"), FAULT), (RuntimeError("r"), FAULT),
        (KeyboardInterrupt(), INTERRUPTED),
    ],
)  # fmt: skip
def test_who_must_act_decides_the_exit_code(error, code, capsys, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert guarded_exit(_raise(error), []) == code
    said = capsys.readouterr()
    one_line(said.err)
    assert "Traceback" not in said.err + said.out


def test_our_own_fault_says_where_its_details_are(capsys, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".premortem").mkdir()
    assert guarded_exit(_raise(ZeroDivisionError("by zero")), ["--json"]) == FAULT
    said = capsys.readouterr()
    place = next((tmp_path / ".premortem").iterdir())
    assert place.name in said.err
    assert "ZeroDivisionError" in place.read_text()
    assert json.loads(said.out)["exit"] == FAULT


def test_a_command_that_ends_well_leaves_with_0() -> None:
    assert guarded_exit(lambda: None, []) == FINE


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m premortem.app.cli.main register list | head -1; echo ${{PIPESTATUS[0]}}"
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert ran.stdout.strip().endswith("0")
    assert ran.stderr == ""


@pytest.mark.parametrize(
    ("sign", "code", "told", "why"),
    [(signal.SIGINT, INTERRUPTED, "interrupted", "KeyboardInterrupt"), (signal.SIGTERM, 143, "told to end", "")],
)
def test_a_signal_ends_a_run_cleanly_and_the_ledger_is_whole(premortem, tmp_path: Path, sign, code, told, why) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "premortem.app.cli.main", "run", "--fault", "none", "--no-twin"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    ledger = tmp_path / ".premortem" / "ledger.db"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (ledger.exists() and any((tmp_path / ".premortem/runs/0001").iterdir())):
        time.sleep(0.1)
    time.sleep(1.0)
    process.send_signal(sign)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert told in one_line(err)
    assert premortem("ledger", "verify").code == FINE
    assert why in premortem("report", "--json").json["runs"][0]["why"]
