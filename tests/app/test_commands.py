"""Each command on the evidence of a real run: what it shows, its JSON, its exit code."""

from __future__ import annotations

import csv
import io
import json
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from premortem.app.report.curve import _by_hand
from premortem.app.report.gather import gather
from premortem.app.report.page import render
from premortem.app.report.story import loss_drawing
from premortem.ledger.ledger import Ledger
from premortem.run.evidence import incidents


@pytest.mark.parametrize(
    "arguments", [["--help"], ["register", "list"], ["explain", "train/divergence"], ["gate", "--list"]]
)
def test_a_light_command_loads_neither_torch_nor_numpy(arguments, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom premortem.app.cli.main import main\n"
        f"try: main({arguments!r})\nexcept SystemExit as left: assert not left.code, left.code\n"
        "heavy = {'torch', 'numpy', 'matplotlib', 'jinja2'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr


def test_version_and_bare_call_say_what_this_is(premortem) -> None:
    assert re.fullmatch(r"premortem \d+\.\d+\.\d+", premortem("--version").out.strip())
    assert "drill" in premortem("-h").out


# --- register, explain ---------------------------------------------------------------------------


def test_register_list_has_the_46_entries_of_the_sources(premortem) -> None:
    rows = premortem("register", "list", "--json").json
    of_sources = [row for row in rows if row["register"] not in (None, "default", "supervise")]
    assert len(of_sources) == 46
    assert {row["status"] for row in rows} <= {"active", "planned", "no entry"}
    assert "HRM-9.1.1" in premortem("register", "list").out


def test_register_show_and_validate_and_schema_agree(premortem, tmp_path: Path) -> None:
    assert premortem("register", "show", "AF-1.4", "--json").json["id"] == "AF-1.4"
    assert "AF-1.4" in premortem("register", "show", "AF-1.4").out
    shown = premortem("register", "show", "default", "--json").json
    jsonschema.validate(shown, premortem("register", "schema").json)
    assert premortem("register", "validate", "hrm", "--json").json["valid"] is True
    (tmp_path / "mine.yaml").write_text(premortem("register", "show", "default").out)
    assert premortem("register", "validate", "mine.yaml").code == 0


def test_a_register_that_names_an_unknown_parameter_is_refused(premortem, tmp_path: Path) -> None:
    text = premortem("register", "show", "default").out.replace(
        "- risk: train/divergence", "- risk: train/divergence\n    params: {best_facter: 3}"
    )
    (tmp_path / "mine.yaml").write_text(text)
    said = premortem("register", "validate", "mine.yaml")
    assert said.code == 2
    assert "did you mean 'best_factor'" in said.err


def test_explain_renders_page_rungs_thresholds_entries_and_runbook(premortem) -> None:
    page = premortem("explain", "train/divergence", "--json").json
    assert {"What fails", "Ladder", "Source"} <= set(page["page"].splitlines())
    assert "restore the last good checkpoint" in [rung["name"] for rung in page["rungs"]]
    assert page["thresholds"]["best_factor"] > 1
    assert {"HRM-9.1.1", "AF-1.4"} <= {use["entry"] for use in page["entries"]}
    shown = premortem("explain", "train/divergence").out
    for words in ("What fails", "Thresholds", "best_factor", "HRM-9.1.1", "Runbook"):
        assert words in shown
    assert premortem("explain", "AF-I.2", "--json").json["id"] == "train/storage-full"
    assert premortem("explain", "train/divergence", "--runbook").out.startswith("# ")


# --- run -----------------------------------------------------------------------------------------


def test_the_main_job_is_rescued_where_its_unguarded_twin_is_lost(ran) -> None:
    _, said = ran
    result = said.json
    assert said.code == 0, said.err
    assert result["guarded"] < 0.04  # the floor of this workload is 0.030 nats
    assert result["unguarded"] > 1.0
    (incident,) = result["evidence"]["incidents"]
    assert incident["verdict"].startswith("recovered")
    assert incident["rungs"][-1]["verdict"] == "helped"
    assert 0 <= incident["tick"] - result["fault_at"] <= 10
    told = [fault["words"] for fault in result["evidence"]["faults"]]
    assert [words.partition(":")[0] for words in told] == ["fault put on", "fault observed", "fault gone"]


def test_without_a_fault_the_guard_only_watches(premortem, tmp_path: Path) -> None:
    said = premortem("run", "--fault", "none", "--no-twin")
    assert said.code == 0, said.err
    assert "the guard only watched" in said.out
    assert (tmp_path / ".premortem" / "report.html").exists()
    assert premortem("incidents", "list", "--json").json == []


# --- incidents, ledger ---------------------------------------------------------------------------


def test_incidents_show_their_timeline_with_the_hashes_of_the_ledger(premortem, after_run: Path) -> None:
    (listed,) = premortem("incidents", "list", "--json").json
    shown = premortem("incidents", "show", "1", "--json").json
    assert shown == listed
    db = sqlite3.connect(after_run / ".premortem" / "ledger.db")
    stored = {row[0] for row in db.execute("SELECT hash FROM chain")}
    db.close()
    assert {line["hash"] for line in shown["timeline"]} <= stored
    told = premortem("incidents", "show", "1").out
    assert "restore the last good checkpoint" in told
    assert shown["timeline"][0]["hash"][:12] in told
    assert "DEF-1" in premortem("incidents", "list").out


def test_a_postmortem_fills_in_what_is_known_and_asks_for_the_rest(premortem, after_run: Path) -> None:
    text = premortem("incidents", "postmortem", "1").out
    for words in ("# Postmortem: incident 1, DEF-1", "## Timeline", "**helped**", "_To be written"):
        assert words in text
    assert premortem("incidents", "postmortem", "1", "--json").json["markdown"] in text


def test_an_incident_that_is_not_there_is_a_mistake(premortem, after_run: Path) -> None:
    said = premortem("incidents", "show", "7")
    assert said.code == 2
    assert "the ledger holds 1" in said.err


def test_only_what_was_handed_over_can_be_acknowledged(premortem, after_run: Path) -> None:
    said = premortem("incidents", "ack", "DEF-1")
    assert said.code == 2
    assert "handed over" in said.err


def test_a_new_normal_is_asked_for_in_the_ledger(premortem, after_run: Path) -> None:
    said = premortem("incidents", "rebaseline", "--who", "maria", "--json").json
    with_request = premortem("ledger", "export").out.splitlines()
    last = json.loads(with_request[-1])
    assert (last["event"], last["data"], last["hash"]) == ("rebaselined", {"who": "maria", "asked": True}, said["hash"])
    assert premortem("ledger", "verify").code == 0


def test_ledger_verify_finds_one_edited_byte(premortem, after_run: Path) -> None:
    assert premortem("ledger", "verify", "--json").json["ok"] is True
    db = sqlite3.connect(after_run / ".premortem" / "ledger.db")
    db.execute("UPDATE chain SET body = replace(body, '\"loss\"', '\"lost\"') WHERE seq = "
               "(SELECT min(seq) FROM chain WHERE event = 'finding')")  # fmt: skip
    db.commit()
    db.close()
    said = premortem("ledger", "verify", "--json")
    assert said.code == 1
    assert said.json["first_bad"] is not None
    assert "changed" in premortem("ledger", "verify").out
    assert "CHANGED" in _page(after_run)


def test_ledger_export_writes_jsonl_and_csv(premortem, after_run: Path) -> None:
    rows = [json.loads(line) for line in premortem("ledger", "export").out.splitlines()]
    sheet = [*csv.DictReader(io.StringIO(premortem("ledger", "export", "--form", "csv").out))]
    assert [row["hash"] for row in rows] == [row["hash"] for row in sheet]
    said = premortem("ledger", "export", "--out", "evidence.jsonl", "--json").json
    assert said["rows"] == len(rows) == len((after_run / "evidence.jsonl").read_text().splitlines())
    assert premortem("ledger", "export", "--out", "/proc/nowhere/x").code == 2


# --- report --------------------------------------------------------------------------------------


def _page(folder: Path) -> str:
    ledger = Ledger.open(folder / ".premortem" / "ledger.db")
    try:
        return render(gather(ledger))
    finally:
        ledger.close()


def test_the_report_stands_alone_and_shows_both_curves(premortem, after_run: Path) -> None:
    assert premortem("report", "--html", "out/page.html").code == 0
    page = (after_run / "out" / "page.html").read_text("utf-8")
    assert page == re.sub(r"<script|<link|<img", "", page)
    outside = set(re.findall(r"""(?:href|src)=["'](?!#)([^"']*)""", page)) | set(re.findall(r"url\((?!#)([^)]*)", page))
    assert outside == set()
    for words in (
        "guarded",
        "unguarded",
        "What was not watched",
        "Proofs",
        "recovery verified",
        "prefers-color-scheme",
    ):
        assert words in page
    incident = premortem("incidents", "show", "1", "--json").json
    assert all(line["hash"] in page for line in incident["timeline"])


def test_the_report_in_short_names_the_last_good_checkpoint(premortem, after_run: Path) -> None:
    told = premortem("report")
    assert told.code == 0
    assert "tick " in told.out
    assert premortem("report", "--json").json["ledger"]["ok"] is True


def test_words_of_the_ledger_cannot_become_markup(after_run: Path) -> None:
    from premortem.core.evidence import Record

    ledger = Ledger.open(after_run / ".premortem" / "ledger.db", run="<script>alert(1)</script>")
    ledger.append(Record("run", "", None, 0, 0.0, {"what": "began"}))
    ledger.append(Record("unwatched", "", None, 0, 0.0, {"what": "<img src=x onerror=alert(1)>"}))
    ledger.close()
    page = _page(after_run)
    assert "<script" not in page
    assert "<img" not in page


def test_the_picture_is_drawn_with_and_without_matplotlib(premortem, after_run: Path) -> None:
    import xml.etree.ElementTree as ET

    assert premortem("report", "--picture", "rescued.svg").code == 0
    ledger = Ledger.open(after_run / ".premortem" / "ledger.db")
    drawing = loss_drawing(gather(ledger))
    ledger.close()
    assert drawing is not None
    for text in ((after_run / "rescued.svg").read_text("utf-8"), _by_hand(drawing)):
        assert ET.fromstring(text).tag.endswith("svg")
        assert "recovery verified" in text
        assert "unguarded" in text


def test_a_ledger_without_a_run_still_makes_a_report(premortem, tmp_path: Path) -> None:
    Ledger.open(tmp_path / "empty.db").close()
    assert premortem("report", "--ledger", "empty.db", "--html", "page.html").code == 0
    assert "No run in this ledger" in (tmp_path / "page.html").read_text()
    assert premortem("report", "--ledger", "empty.db", "--picture", "p.svg").code == 2
    assert premortem("incidents", "list", "--ledger", "empty.db").out.startswith("No incident")


# --- gate ----------------------------------------------------------------------------------------


def test_gates_are_listed_with_the_built_in_one_first(premortem) -> None:
    offers = premortem("gate", "--list", "--json").json
    assert offers[0]["name"] == "proofs"
    assert {"merge", "before-phase-1", "long-context"} <= {offer["name"] for offer in offers}


def test_a_gate_without_evidence_is_no_go_with_exit_code_1(premortem) -> None:
    said = premortem("gate", "proofs", "--json")
    assert said.code == 1
    assert said.json["passes"] is False
    told = premortem("gate", "before-phase-1")
    assert told.code == 1
    assert "no-go" in told.out


def test_a_gate_with_all_its_figures_says_go(premortem) -> None:
    figures = ["--measured", "total coverage=91.5", "--measured", "coverage of the critical paths=96", "--by", "ci"]
    said = premortem("gate", "merge", *figures, "--json")
    assert (said.code, said.json["answer"]) == (0, "go"), said.err


def test_every_incident_of_the_ledger_is_numbered_in_order(after_run: Path) -> None:
    ledger = Ledger.open(after_run / ".premortem" / "ledger.db")
    try:
        found = incidents(ledger)
    finally:
        ledger.close()
    assert [i.number for i in found] == [*range(1, len(found) + 1)]


def test_a_curve_that_is_lost_for_ever_is_marked_where_it_is_lost() -> None:
    from premortem.app.report.gather import Curve, Gathered
    from premortem.ledger.ledger import VerifyReport
    from premortem.run.evidence import RunView

    lost = Curve([1, 2, 3, 4, 5], [1.0, float("nan"), 0.5, float("nan"), float("inf")])
    healed = Curve([1, 2, 3], [1.0, float("nan"), 0.5])
    curves = {"loss": {"unguarded": lost, "guarded": healed}}
    drawing = loss_drawing(Gathered([RunView("r", 0.0)], [], VerifyReport(0, None, (), 0), curves, []))
    assert drawing is not None
    assert [(mark.tick, mark.word) for mark in drawing.marks] == [(4, "unguarded: not a number from here on")]
