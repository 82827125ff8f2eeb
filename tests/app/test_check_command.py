"""``premortem check`` as a user calls it: exit codes, JSON, mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from premortem.app.cli.exits import FINDINGS, FINE, MISTAKE


def test_what_is_all_ok_leaves_with_0(premortem, tmp_path: Path) -> None:
    said = premortem("check", "storage", "registers", "flags", "--folder", "ckpt", "--need-gb", "0.001")
    assert said.code == FINE, said.out
    assert "go" in said.out
    assert [*tmp_path.iterdir()] == []


def test_unknown_is_not_ok_and_everything_is_asked_without_arguments(premortem) -> None:
    said = premortem("check", "--json")
    assert said.code == FINDINGS
    assert said.json["passes"] is False
    found = {check["stage"]: check for check in said.json["checks"]}
    assert list(found) == ["registers", "runbooks", "dependencies", "storage", "memory", "devices", "data", "trackers",
                           "flags"]  # fmt: skip
    missing = [check for check in said.json["checks"] if check["state"] == "unknown"]
    assert any(check["do"].startswith("premortem drill") for check in missing)  # never drilled in this folder


def test_a_preflight_that_checked_nothing_is_no_go(premortem) -> None:
    said = premortem("check", "data", "flags")
    assert said.code == FINDINGS
    assert "nothing was checked" in said.out


def test_a_need_that_does_not_fit_leaves_with_1(premortem) -> None:
    said = premortem("check", "memory", "storage", "--need-gb", "1e9", "--memory-gb", "1e6")
    assert said.code == FINDINGS
    assert said.out.count("not ok") >= 2
    assert "no-go" in said.out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["storag"], "did you mean 'storage'"),
        (["storage", "--need-gb", "-1"], "positive number"),
        (["devices", "--device", "gpu"], "cuda:N"),
        (["dependencies", "--extra", "trian"], "did you mean 'train'"),
        (["flags", "--register", "hrn"], "did you mean 'hrm'"),
        (["storage", "--need-gb", "much"], "--need-gb"),
    ],
    ids=" ".join,
)
def test_a_mistake_is_one_line_and_exit_code_2(premortem, arguments: list[str], told: str) -> None:
    said = premortem("check", *arguments)
    assert (said.code, said.out) == (MISTAKE, "")
    assert told in said.err
    assert len(said.err.strip().splitlines()) == 1
