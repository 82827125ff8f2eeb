"""Each active entry: a runbook for a person, and a proof that its ladder mends what it says."""

from __future__ import annotations

from collections.abc import Iterable

from premortem.core.errors import StageError
from premortem.ledger.ledger import Ledger
from premortem.ledger.ledger import Row as LedgerRow
from premortem.ledger.location import ledger_path
from premortem.registers.load import load_register
from premortem.registers.schema import Entry
from premortem.run.discover import find_risk
from premortem.run.evidence import proofs
from premortem.run.gate import proof_state
from premortem.run.preflight.row import Asked, Row, State

_PROOFS: dict[str, State] = {"proven": "ok", "missing": "unknown", "inconclusive": "unknown"}


def rows(asked: Asked) -> Iterable[Row]:
    """Planned entries have nothing to run and nothing to prove: they are said, not failed."""
    entries = load_register(asked.register).entries
    latest = _proofs(asked)
    for entry in entries:
        if entry.status == "planned":
            yield Row(f"{entry.id} runbook and proof", "not asked", "planned: no mechanism is built for it yet")
            continue
        yield from (_runbook(entry, use.risk) for use in entry.risks)
        if isinstance(latest, str):
            yield Row(f"{entry.id} proof", "unknown", latest, "a fresh proof", "mend or move the ledger")
        else:
            yield _proof(entry, latest.get(entry.id))


def _proofs(asked: Asked) -> dict[str, LedgerRow] | str:
    place = ledger_path(asked.ledger)
    if not place.exists():
        return {}
    try:
        ledger = Ledger.open(place)
        try:
            return proofs(ledger)
        finally:
            ledger.close()
    except StageError as error:
        return str(error)


def _runbook(entry: Entry, risk: str) -> Row:
    page = find_risk(risk, entry.id).runbook
    words = len(page.read_text("utf-8").split()) if page.is_file() else 0
    what, expected = f"{entry.id} runbook of {risk}", "a page that says what a person does"
    if words:
        return Row(what, "ok", f"{words} words", expected)
    return Row(what, "not ok", "no page" if not page.is_file() else "an empty page", expected, f"write {page}")


def _proof(entry: Entry, row: LedgerRow | None) -> Row:
    proof = proof_state(entry, row)
    do = "" if proof.is_fresh else f"premortem drill {entry.id}"
    return Row(f"{entry.id} proof", _PROOFS.get(proof.state, "not ok"), proof.because, "a fresh proof", do)
