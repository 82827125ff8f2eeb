"""What every risk keeps, wherever it comes from: its page, its ladder, its drill, its runbook."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest

from premortem import Guard
from premortem.core.action import Override
from premortem.core.detector import Level
from premortem.core.drill import Bounds
from premortem.core.engine import Engine
from premortem.core.ladder import Relation
from premortem.core.plan import BoundEntry, BoundWatch, Plan
from premortem.core.signal import Signal
from premortem.run.discover import FoundRisk, find_risks

RISKS = sorted(find_risks().values(), key=lambda found: found.id)
HEADINGS = ("What fails", "Why it hurts", "How it is seen", "Ladder", "Covered / not covered", "Drill", "Source")
RUNBOOK = ("## Signs", "## First five minutes", "## What the guard does", "## When it hands over", "## Afterwards")
every_risk = pytest.mark.parametrize("found", RISKS, ids=lambda found: found.id)


def test_the_box_has_risks() -> None:
    assert len(RISKS) >= 4


@every_risk
def test_its_page_has_every_heading_in_order(found: FoundRisk) -> None:
    lines = found.page().splitlines()
    at = [lines.index(heading) for heading in HEADINGS]
    assert at == sorted(at)
    assert "Covered:" in found.page()
    assert "Not covered:" in found.page()


@every_risk
def test_its_runbook_says_what_a_person_does(found: FoundRisk) -> None:
    text = found.runbook.read_text("utf-8")
    assert [heading for heading in RUNBOOK if heading not in text] == []


@every_risk
def test_its_folder_is_whole(found: FoundRisk) -> None:
    """One folder = one risk: page, drill, test and runbook stand together."""
    names = {path.name for path in found.folder.iterdir()}
    assert names >= {"risk.py", "drill.py", f"test_{found.folder.name}.py", "runbook.md"}


@every_risk
def test_its_page_loads_without_torch_and_numpy(found: FoundRisk) -> None:
    code = f"import sys, importlib; importlib.import_module('{found.package}.risk'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@every_risk
def test_its_parameters_have_defaults_that_survive_json(found: FoundRisk) -> None:
    risk = found.load()
    params = risk.params()
    again = risk.params(**json.loads(json.dumps(dataclasses.asdict(params))))
    assert again == params
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(params, dataclasses.fields(risk.params)[0].name, 0)


@every_risk
def test_its_names_are_unique(found: FoundRisk) -> None:
    risk = found.load()
    watches = [watch.name for watch in risk.watches(risk.params())]
    rungs = [rung.name for rung in risk.rungs(risk.params())]
    assert len(set(watches)) == len(watches)
    assert len(set(rungs)) == len(rungs)


@every_risk
def test_every_symptom_has_a_rung_that_mends_it_or_is_only_recorded(found: FoundRisk) -> None:
    risk = found.load()
    params = risk.params()
    last = risk.contingency(params)
    rungs = [*risk.rungs(params), *([last] if last else [])]
    for watch in risk.watches(params):
        if _can_be_red(watch.detector()):
            assert any(rung.applies_to(frozenset({watch.symptom})) for rung in rungs), watch.name


@every_risk
def test_every_rung_is_capped_and_verified(found: FoundRisk) -> None:
    risk = found.load()
    for rung in risk.rungs(risk.params()):
        assert 1 <= rung.tries <= 20
        assert rung.confirm >= 1
        assert rung.deadline.amount > 0
        assert rung.mends
        if rung.override.kind == "choose" and isinstance(rung.override.by, str):
            assert rung.relation is Relation.IRREVERSIBLE, f"{rung.name}: a request cannot be taken back"


@every_risk
def test_its_detectors_survive_a_restart(found: FoundRisk) -> None:
    plan = _plan(found)
    engine, resumed = Engine(plan), Engine(plan)
    for tick in range(150):
        engine.observe([1.0 + 0.01 * (tick % 7)] * len(plan.signals), tick, float(tick))
    assert resumed.observer.load(json.loads(json.dumps(engine.observer.state()))) == []
    resumed.load(json.loads(json.dumps(engine.state())))
    for tick in range(150, 200):
        row: list[float | None] = [1.0 + 0.01 * (tick % 7)] * len(plan.signals)
        engine.observe(row, tick, float(tick))
        resumed.observe(list(row), tick, float(tick))
        assert resumed.observer.levels == engine.observer.levels


@every_risk
def test_it_never_lets_a_bad_row_raise(found: FoundRisk) -> None:
    plan = _plan(found)
    engine = Engine(plan)
    for tick, value in enumerate([1.0, float("nan"), float("inf"), -float("inf"), 0.0, -1.0, 1e300, None, 1.0]):
        engine.observe([value] * len(plan.signals), tick, float(tick))


@every_risk
def test_its_drill_names_real_cases_with_bounds(found: FoundRisk) -> None:
    cases = found.drill_module().CASES
    assert cases
    assert len({case.name for case in cases}) == len(cases)
    for case in cases:
        assert isinstance(case.bounds, Bounds)
        assert case.at > 0


@pytest.mark.parametrize("name", ["hrm", "ultrathink", "agent-forge", "ryzanstein", "default", "supervise"])
def test_every_active_entry_of_the_box_binds_to_its_risks(name: str) -> None:
    for entry in Guard(name).active:
        assert entry.risks
        assert all(use.risk in find_risks() for use in entry.risks)


def _can_be_red(detector: object) -> bool:
    """Feeds textbook trouble; a detector that only ever says YELLOW opens no incident."""
    levels = set()
    observe = detector.observe  # type: ignore[attr-defined]
    for stream in ([1.0] * 120 + [1e6] * 40, [0.0] * 40, [float("nan")], [1.0] * 60, [1e-6] * 3):
        levels |= {observe(value) for value in stream}
    return any(level is not None and level >= Level.RED for level in levels)


def _plan(found: FoundRisk) -> Plan:
    risk = found.load()
    params = risk.params()
    watches = risk.watches(params)
    names = sorted({watch.signal for watch in watches})
    controls = {rung.control: 1.0 if rung.override.kind != "choose" else "nothing" for rung in risk.rungs(params)}
    assert all(isinstance(rung.override, Override) for rung in risk.rungs(params))
    return Plan(
        tuple(Signal(name) for name in names),
        tuple(BoundWatch("T-1", found.id, watch, names.index(watch.signal)) for watch in watches),
        {"T-1": BoundEntry("T-1", risk.rungs(params), risk.contingency(params))},
        controls,
    )
