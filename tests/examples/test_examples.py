"""Each example is run as a user runs it, with its faults and without; what counts is what the ledger holds."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from premortem.ledger.ledger import Filters, Ledger, Row
from premortem.run.evidence import IncidentView, incidents

ROOT = Path(__file__).parents[2]
NAMES = ("http_service", "checkpoint_gate", "evolution", "data_pipeline", "git_delivery", "supervise_command")
MEASURED = ("http_service", "evolution", "supervise_command")
"""Their figures differ from machine to machine; words and order do not."""


@dataclass(frozen=True)
class Ran:
    """What an example printed, and what its ledger holds."""

    output: str
    incidents: tuple[IncidentView, ...]
    rows: tuple[Row, ...]
    readings: dict[str, dict[int, float]]

    @property
    def verdicts(self) -> list[tuple[str, str]]:
        return [(found.verdict, found.after_rung) for found in self.incidents]

    def tried(self, number: int) -> list[tuple[str, str]]:
        return [(rung.rung, rung.verdict) for rung in self.incidents[number - 1].rungs]

    def records(self, event: str) -> list[Row]:
        return [row for row in self.rows if row.record.event == event]


@functools.cache
def ran(name: str, *, faulty: bool) -> Ran:
    """One run of an example, in a home of its own; the ledger's chain is walked."""
    with tempfile.TemporaryDirectory() as home:
        command = [sys.executable, f"examples/{name}/main.py", "--home", home, *([] if faulty else ["--fault", "none"])]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        ledger = Ledger.open(Path(home) / "ledger.db")
        try:
            assert ledger.verify().ok
            readings: dict[str, dict[int, float]] = {}
            for reading in ledger.readings():
                readings.setdefault(reading.signal, {})[reading.tick] = reading.value
            return Ran(done.stdout, tuple(incidents(ledger)), tuple(ledger.records(Filters())), readings)
        finally:
            ledger.close()


@pytest.mark.parametrize("name", NAMES)
def test_where_nothing_is_wrong_nothing_is_found(name: str) -> None:
    healthy = ran(name, faulty=False)
    assert [row.record.data for row in healthy.records("finding")] == []
    assert healthy.incidents == ()
    assert healthy.records("run") != []
    assert healthy.records("guard_fault") == []


@pytest.mark.parametrize("name", NAMES)
def test_its_page_shows_what_it_really_prints(name: str) -> None:
    page = (ROOT / "docs" / "examples" / f"{name}.md").read_text("utf-8")
    assert len(page.splitlines()) <= 60
    shown = re.search(r"<!-- output -->\n```text\n(.*?)```", page, re.DOTALL)
    assert shown is not None
    printed = iter(ran(name, faulty=True).output.splitlines())
    for line in shown[1].splitlines():
        pattern = _pattern(line)
        assert any(pattern.fullmatch(_figures(said)) for said in printed), f"not printed, or not in this order: {line}"


def test_their_registers_bind_to_their_risks_without_a_tensor_library() -> None:
    code = (
        "import sys\n"
        "from premortem.run.discover import find_risks\n"
        "from premortem.run.guard import Guard\n"
        "[Guard(register) for register in sys.argv[1:]]\n"
        "print(*sorted(find_risks()))\n"
        "sys.exit(', '.join(sorted({'torch', 'numpy'} & set(sys.modules))) or 0)"
    )
    registers = sorted((ROOT / "examples").glob("*/register.yaml"))
    folders = os.pathsep.join(str(path.with_name("risks")) for path in registers)
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, registers)],
        env={**os.environ, "PREMORTEM_RISKS": folders}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    own = {
        "deliver/bad-batch",
        "deliver/bad-checkpoint",
        "deliver/eroding",
        "evolve/collapse",
        "serve/upstream-failing",
    }
    assert own <= set(done.stdout.split())


def _figures(text: str) -> str:
    """Measured figures differ from machine to machine; words and order do not."""
    return re.sub(r"\d+(\.\d+)?(e[-+]\d+)?", "#", text)


def _pattern(line: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in _figures(line).split("…")))


def test_the_service_falls_back_and_comes_back_when_its_upstream_has() -> None:
    service = ran("http_service", faulty=True)
    assert service.verdicts == [("recovered", "answer from the cache"), ("recovered", "answer without a price")]
    assert service.tried(1) == [("try once more", "failed"), ("answer from the cache", "helped")]
    assert service.tried(2) == [
        ("try once more", "failed"), ("answer from the cache", "failed"), ("answer without a price", "helped")
    ]  # fmt: skip
    waited = [row.record.data["until"] for row in service.records("outcome") if row.record.data["verb"] == "wait"]
    assert waited == ["upstream answers"] * 2
    last = max(service.readings["failed"])
    assert [service.readings[name][last] for name in ("failed", "cached", "degraded")] == [0.0, 0.0, 0.0]


def test_a_fallback_is_not_taken_off_while_its_upstream_is_away() -> None:
    service = ran("http_service", faulty=True)
    undone = [
        row.record.tick for row in service.records("intent")
        if row.record.data["verb"] == "undo" and row.record.data["rung"] != "try once more"
    ]  # fmt: skip
    assert undone
    assert all(service.readings["upstream_silent"][tick] <= 0.3 for tick in undone)


def test_the_gate_lets_only_new_good_contents_through() -> None:
    gate = ran("checkpoint_gate", faulty=True)
    exits = [int(line.split()[-1]) for line in gate.output.splitlines() if line.startswith("  exit")]
    assert exits == [0, 1, 1, 1, 0, 0, 1, 1, 0, 0]
    assert len(gate.readings["unreadable"]) == 9  # the same file again is no assessment
    assert gate.verdicts == [("recovered", "fall back to the last good file")] * 2
    assert gate.tried(1) == gate.tried(2) == [("fall back to the last good file", "helped")]
    symptoms = [row.record.data["symptom"] for row in gate.records("finding") if row.record.data["level"] == "RED"]
    assert symptoms == ["not finite", "zeroed", "unreadable", "tampered"]


def test_what_the_gate_hands_off_is_what_it_assessed(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, 'examples/checkpoint_gate')\n"
        "import main; from checkpoint import HandOff, content_of, save\n"
        "path, home = Path(sys.argv[1], 'model.safetensors'), Path(sys.argv[1], 'home')\n"
        "class Overtaken(HandOff):\n"
        "    def measure(self, seen):\n"
        "        row = super().measure(seen)\n"
        "        save(path, main.trained(2))  # the trainer is faster than the gate\n"
        "        return row\n"
        "main.HandOff = Overtaken\n"
        "save(path, main.trained(1)); first = content_of(path)\n"
        "assert main.assess(path, home) == 0\n"
        "assert content_of(path) != first, 'it was not overtaken'\n"
        "print(first == (home / 'hand-off' / 'current.safetensors').resolve().stem)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "True"


def test_the_gate_says_what_is_wrong_with_its_arguments() -> None:
    done = subprocess.run(
        [sys.executable, "examples/checkpoint_gate/main.py", "assess", "nowhere.safetensors"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "found no file at nowhere.safetensors" in done.stderr


def test_each_collapse_of_the_population_is_mended_by_another_rung() -> None:
    evolution = ran("evolution", faulty=True)
    assert evolution.verdicts == [
        ("recovered", "raise mutation"), ("recovered", "inject immigrants"), ("recovered", "restart from the archive")
    ]  # fmt: skip
    assert evolution.tried(2) == [("raise mutation", "failed"), ("inject immigrants", "helped")]
    assert evolution.tried(3) == [("restart from the archive", "helped")]


def test_a_healthy_search_is_the_same_under_guard() -> None:
    figures = re.search(r"guarded ([\d.e-]+), unguarded ([\d.e-]+)", ran("evolution", faulty=False).output)
    assert figures is not None
    assert figures[1] == figures[2]


def test_wrong_rows_go_downstream_only_in_the_batch_that_shows_them() -> None:
    pipeline = ran("data_pipeline", faulty=True)
    quarantine, snapshot = "quarantine the wrong rows", "publish the last good snapshot"
    assert [found.verdict for found in pipeline.incidents] == ["recovered"] * 4 + ["handed over"]
    assert pipeline.tried(1) == pipeline.tried(2) == pipeline.tried(3) == [(quarantine, "helped")]
    assert pipeline.tried(4) == [(quarantine, "failed"), (snapshot, "helped")]
    assert [rung for rung, _ in pipeline.tried(5)] == [quarantine, snapshot, "stop downstream"]
    opened = [found.tick for found in pipeline.incidents]
    wrong = [
        tick for name in ("out_null", "out_duplicate", "out_late", "out_schema")
        for tick, share in pipeline.readings[name].items() if share > 0
    ]  # fmt: skip
    assert sorted(wrong) == opened


def test_a_request_to_a_person_is_answered_by_evidence_or_overdue() -> None:
    git = ran("git_delivery", faulty=True)
    assert git.verdicts == [("recovered", "ask the author to bring the tests back"), ("handed over", "")]
    assert git.tried(1) == [
        ("refuse commits that take tests away", "failed"), ("ask the author to bring the tests back", "helped")
    ]  # fmt: skip
    assert git.tried(2) == [("ask the owner to merge or drop the branch", "failed"), ("hold the release", "failed")]
    why = [row.record.data["why"] for row in git.records("verified")]
    assert "no evidence by its due date" in why
    assert "refused: 3 tests removed" in git.output


def test_both_commands_are_brought_to_their_end() -> None:
    supervised = ran("supervise_command", faulty=True)
    assert [found.verdict.partition(" (")[0] for found in supervised.incidents] == ["recovered"] * len(
        supervised.incidents
    )
    assert {found.entry for found in supervised.incidents} == {"SUP-1", "SUP-2"}
    ended = [row.record.data for row in supervised.records("run") if row.record.data["what"] == "ended"]
    assert [(data["verdict"], data["exit_code"]) for data in ended] == [("ended well", 0)] * 2
