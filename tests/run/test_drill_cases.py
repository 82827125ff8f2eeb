"""Which cases a drill runs: those of the entry; all of them for a risk that is drilled by its own id."""

from __future__ import annotations

from types import ModuleType

import pytest

from premortem.app.cli.draft import draft_register
from premortem.core.errors import BugError
from premortem.run.discover import find_risk, find_risks
from premortem.run.drill import _cases, find_entries


def names(risk: str, entry: str) -> list[str]:
    return [case.name for case in _cases(find_risk(risk, entry).drill_module(), entry)]


@pytest.mark.parametrize("risk", [*find_risks()])
def test_a_risk_drilled_by_its_own_id_runs_every_case_of_it(risk: str) -> None:
    with draft_register([risk]) as draft:
        ((_, entry),) = find_entries([], str(draft))
    every = [case.name for case in find_risk(risk, "test").drill_module().CASES]
    assert names(risk, entry.id) == every != []


def test_an_entry_runs_its_own_cases_and_a_stranger_runs_all() -> None:
    mine, others = names("train/divergence", "HRM-9.1.1"), names("train/divergence", "AF-1.4")
    assert mine
    assert others
    assert not {*mine} & {*others}
    assert {*names("train/divergence", "MINE-1")} >= {*mine, *others}


def test_a_drill_without_cases_is_our_fault() -> None:
    with pytest.raises(BugError, match="no CASES"):
        _cases(ModuleType("empty"), "X-1")
