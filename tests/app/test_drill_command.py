"""``premortem drill`` from the command line: what it says of a proof, and of what it cannot run."""

from __future__ import annotations

import pytest


def test_a_risk_is_drilled_by_its_own_id(premortem) -> None:
    said = premortem("drill", "process/crash-loop", "--seeds", "1", "--json")
    (row,) = said.json
    assert (said.code, row["risk"], row["verdict"], row["seeds"]) == (0, "process/crash-loop", "proven", 1)
    assert row["unguarded"] is None  # the plain run gave nothing
    assert row["guarded"] <= row["allowed"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "expected ENTRY..., --register R for all active ones in it, or --all"),
        (("SUP-2", "--all"), "expected one of the two"),
        (("SUP-22",), "did you mean"),
        (("process/crash-lop",), "crash-loop"),
    ],
)
def test_mistakes_are_told_before_anything_runs(premortem, arguments: tuple[str, ...], text: str) -> None:
    said = premortem("drill", *arguments)
    assert said.code == 2
    assert text in said.err
    assert "Traceback" not in said.err
