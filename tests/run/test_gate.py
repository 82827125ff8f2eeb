"""A gate opens only on fresh, unaltered evidence: planned, missing, stale or unknown is never go."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from premortem.core.errors import ConfigError
from premortem.core.evidence import Plain, Record
from premortem.core.gate import Answer
from premortem.ledger.ledger import Filters, Ledger
from premortem.registers.load import load_register
from premortem.run.gate import Given, ask, fingerprint_of, gates, proof_states

ENTRIES = {entry.id: entry for entry in load_register("default").entries}
REGISTERS = ("hrm", "ultrathink", "agent-forge", "ryzanstein")
PLANNED = [e for name in REGISTERS for e in load_register(name).entries if e.status == "planned"]


@pytest.fixture
def ledger(tmp_path: Path):
    opened = Ledger.open(tmp_path / "ledger.db", run="gates")
    yield opened
    opened.close()


def prove(ledger: Ledger, entry: str, verdict: str = "proven", **changes: Plain) -> None:
    """A proof as a drill writes it, by the code and policy of now unless changed."""
    now = fingerprint_of(ENTRIES[entry])
    data: dict[str, Plain] = {"verdict": verdict, "seeds": 3, "policy": now.policy, "files": dict(now.files)}
    ledger.append(Record("proof", entry, None, 0, 0.0, {**data, **changes}))


def state_of(ledger: Ledger, entry: str) -> str:
    return next(p.state for p in proof_states(ledger, "default") if p.entry == entry)


def test_proofs_says_go_when_every_entry_is_freshly_proven(ledger) -> None:
    for entry in ENTRIES:
        prove(ledger, entry)
    decision = ask("proofs", ledger, register="default")
    assert decision.passes, decision.clauses
    assert len(decision.clauses) == len(ENTRIES) + 1


STATES = ("proven", "not proven", "inconclusive", "missing", "stale policy", "stale file")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(states=st.lists(st.sampled_from(STATES), min_size=len(ENTRIES), max_size=len(ENTRIES)))
def test_it_passes_exactly_when_all_are_proven(states, tmp_path_factory) -> None:
    opened = Ledger.open(tmp_path_factory.mktemp("gate") / "ledger.db", run="gates")
    try:
        for entry, state in zip(ENTRIES, states, strict=True):
            if state == "stale policy":
                prove(opened, entry, policy="another")
            elif state == "stale file":
                prove(opened, entry, files={**fingerprint_of(ENTRIES[entry]).files, "premortem.core.engine": "old"})
            elif state != "missing":
                prove(opened, entry, state)
        decision = ask("proofs", opened, register="default")
    finally:
        opened.close()
    assert decision.passes == (set(states) == {"proven"})


def test_a_stale_proof_names_what_changed(ledger) -> None:
    prove(
        ledger, "DEF-1", files={**fingerprint_of(ENTRIES["DEF-1"]).files, "premortem.risks.train.divergence.risk": "x"}
    )
    (proof,) = [p for p in proof_states(ledger, "default") if p.entry == "DEF-1"]
    assert proof.state == "stale"
    assert "premortem.risks.train.divergence.risk" in proof.because


def test_a_proof_without_a_fingerprint_is_stale(ledger) -> None:
    prove(ledger, "DEF-1", files=None)
    assert state_of(ledger, "DEF-1") == "stale"


def test_the_latest_proof_counts(ledger) -> None:
    prove(ledger, "DEF-1")
    prove(ledger, "DEF-1", "not proven")
    assert state_of(ledger, "DEF-1") == "not proven"


@pytest.mark.parametrize("entry", PLANNED, ids=lambda entry: entry.id)
def test_a_planned_entry_is_never_proven_whatever_the_ledger_says(entry, shared_forgery) -> None:
    states = {p.entry: p.state for p in shared_forgery}
    assert states[entry.id] == "planned"


@pytest.fixture(scope="module")
def shared_forgery(tmp_path_factory):
    """The states of all entries in a ledger that claims a proof for every planned one."""
    opened = Ledger.open(tmp_path_factory.mktemp("forged") / "ledger.db", run="forged")
    for entry in PLANNED:
        now = fingerprint_of(entry)
        data: dict[str, Plain] = {"verdict": "proven", "seeds": 59, "policy": now.policy, "files": dict(now.files)}
        opened.append(Record("proof", entry.id, None, 0, 0.0, data))
    found = proof_states(opened)
    opened.close()
    return found


def test_a_gate_that_asks_for_a_planned_entry_never_passes(ledger) -> None:
    for offer in gates():
        planned = {e.id for e in PLANNED} & set(offer.gate.proven if offer.gate else ())
        if planned:
            brought = Given("ci", {m.signal: m.go for m in offer.gate.measures}, tuple(offer.gate.requires))
            names_it = [o.register for o in gates() if o.name == offer.name]
            decision = ask(offer.name, ledger, register=offer.register if len(names_it) > 1 else None, given=brought)
            assert not decision.passes, offer.name


def test_a_forged_proof_opens_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    opened = Ledger.open(path, run="gates")
    for entry in ENTRIES:
        prove(opened, entry, "not proven" if entry == "DEF-1" else "proven")
    opened.close()
    db = sqlite3.connect(path)
    db.execute("UPDATE chain SET body = replace(body, '\"not proven\"', '\"proven\"')")
    db.commit()
    db.close()
    opened = Ledger.open(path, run="gates")
    try:
        decision = ask("proofs", opened, register="default")
    finally:
        opened.close()
    assert decision.answer is Answer.NO_GO
    assert decision.clauses[0].asked == "the ledger is exactly what was written"


def test_figures_words_and_measured_readings_answer_their_clauses(ledger) -> None:
    given = Given("ci", {"total coverage": 82.0, "coverage of the critical paths": 95.0})
    assert ask("merge", ledger, given=given).answer is Answer.CONDITIONAL
    ledger.note_readings(1, {"total coverage": 90.0, "coverage of the critical paths": 99.0})
    ledger.flush()
    assert ask("merge", ledger).passes
    assert ask("merge", ledger, given=Given("ci", {"total coverage": 10.0})).answer is Answer.NO_GO


def test_evidence_in_words_counts_only_word_for_word_and_with_a_name(ledger) -> None:
    gate = next(offer.gate for offer in gates() if offer.name == "before-production")
    assert gate is not None
    words = gate.requires[0]
    clauses = {c.asked: c for c in ask("before-production", ledger, given=Given("maria", {}, (words,))).clauses}
    assert clauses[words].answer is Answer.GO
    assert clauses[gate.requires[1]].answer is Answer.INCONCLUSIVE
    with pytest.raises(ConfigError, match="add --by NAME"):
        ask("before-production", ledger, given=Given("", {}, (words,)))
    with pytest.raises(ConfigError, match="the gate asks for"):
        ask("before-production", ledger, given=Given("maria", {}, (words + "!",)))


def test_a_decision_is_kept_with_its_clauses(ledger) -> None:
    decision = ask("merge", ledger)
    (row,) = ledger.records(Filters(events=("gate",)))
    assert row.record.data["answer"] == decision.answer.value == "inconclusive"
    assert ledger.verify().ok


def test_a_decision_that_cannot_be_kept_is_no_go(tmp_path: Path) -> None:
    code = (
        "import os, resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from premortem.ledger.ledger import Ledger\nfrom premortem.run.gate import ask, Given\n"
        "opened = Ledger.open('ledger.db', run='gates')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))\n"
        "figures = {'total coverage': 99.0, 'coverage of the critical paths': 99.0}\n"
        "decision = ask('merge', opened, given=Given('ci', figures))\n"
        "print(decision.passes, decision.clauses[-1].asked)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert ran.stdout.strip() == "False the decision is kept", ran.stderr


def test_an_unknown_gate_is_told_with_the_closest_match(ledger) -> None:
    with pytest.raises(ConfigError, match="did you mean 'merge'"):
        ask("merg", ledger)
