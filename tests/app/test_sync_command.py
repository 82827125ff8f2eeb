"""``premortem sync`` as a user calls it: what it sent, what it could not, and its exit codes."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from premortem.app.cli.exits import FINDINGS, FINE, MISTAKE
from premortem.stages import tracking


def spooled(home: Path, run: str, count: int = 20) -> None:
    """A run that logged and sent nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        tracker = tracking.open({"tensorboard": str(home / "tb")}, project="p", run=run, spool=home / "spool",
                                mode="local", close_s=0.2)  # fmt: skip
        for step in range(count):
            tracker.log({"loss": 1.0 / (step + 1)}, step)
        tracker.close()


def test_what_waits_is_sent_once(premortem, tmp_path: Path) -> None:
    spooled(tmp_path, "r")
    first, again = premortem("sync", "spool"), premortem("sync", "spool", "--json")
    assert (first.code, again.code) == (FINE, FINE)
    assert "p/r" in first.out
    (row,) = again.json
    assert (row["unsent"], row["damaged"], row["rejected"], row["fault"]) == (0, 0, 0, "")


def test_a_torn_description_is_told_beside_what_was_sent(premortem, tmp_path: Path) -> None:
    spooled(tmp_path, "whole")
    torn = tmp_path / "spool" / "a-torn"
    torn.mkdir()
    (torn / "run.json").write_text("{")
    said = premortem("sync", "spool")
    assert said.code == FINDINGS
    assert "found no whole description" in said.out
    assert "p/whole" in said.out


@pytest.mark.parametrize("arguments", [("nowhere",), ("nowhere", "--wait", "0")])
def test_no_spool_there_is_the_users_mistake(premortem, arguments: tuple[str, ...]) -> None:
    said = premortem("sync", *arguments)
    assert said.code == MISTAKE
    assert "Traceback" not in said.err
