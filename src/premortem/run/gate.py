"""Gates: go or no-go over the ledger's evidence. What is missing, stale or unknown is never go (law 2).

A gate of a register asks for fresh proofs, measured figures and evidence in words; the built-in gate ``proofs``
asks every entry for its proof. A planned entry has no mechanism to prove, so it can never pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from premortem.core.errors import ConfigError
from premortem.core.evidence import Plain, Record
from premortem.core.gate import Answer, Clause, Decision, decide, measured
from premortem.ledger.ledger import Ledger, Row
from premortem.registers.load import load_all, load_register
from premortem.registers.schema import Entry, Gate, Measure, RegisterFile
from premortem.run.discover import find_risk
from premortem.run.evidence import proofs
from premortem.run.fingerprint import Fingerprint, fingerprint
from premortem.run.suggest import closest

BUILT_IN = "proofs"


@dataclass(frozen=True, slots=True)
class Given:
    """What a person or a pipeline brings to a gate; it is kept with the decision, under their name.

    Attributes:
        by: who says so.
        figures: measured values by the signal that the gate asks for, in the gate's own unit.
        signed: evidence in words that the gate requires, word for word.
    """

    by: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    signed: tuple[str, ...] = ()


NOTHING = Given()


@dataclass(frozen=True, slots=True)
class Offer:
    """A gate that can be asked: its name, what it is for, and the register that holds it."""

    name: str
    title: str
    at: str
    register: str
    gate: Gate | None = None


@dataclass(frozen=True, slots=True)
class Proof:
    """How an entry stands. ``state``: proven, not proven, inconclusive, stale, missing or planned."""

    entry: str
    title: str
    state: str
    because: str
    seeds: int = 0
    hash: str = ""

    @property
    def is_fresh(self) -> bool:
        """Whether it is proven by the code and thresholds of today."""
        return self.state == "proven"


def gates(register: str | None = None) -> list[Offer]:
    """Every gate of one register, or of all that ship, after the built-in one.

    Raises:
        ConfigError: for a register that does not load.
    """
    found = [Offer(BUILT_IN, "every entry has a fresh proof", "before anyone relies on the guard", "built in")]
    for name, file in _files(register).items():
        found += [Offer(gate.name, gate.title, gate.at, name, gate) for gate in file.gates]
    return found


def ask(name: str, ledger: Ledger, *, register: str | None = None, given: Given = NOTHING) -> Decision:
    """Decide a gate and keep the decision; a decision that could not be kept does not pass.

    Raises:
        ConfigError: an unknown gate, with the closest match; figures or words that the gate does not ask for.
        StageError: a ledger that cannot be read.
    """
    offers = [offer for offer in gates(register) if offer.name == name]
    if not offers:
        known = [offer.name for offer in gates(register)]
        raise ConfigError(f"found the unknown gate {name!r}, expected one of {', '.join(known)}{closest(name, known)}")
    if len(offers) > 1:
        places = ", ".join(offer.register for offer in offers)
        raise ConfigError(f"found the gate {name!r} in {places}; name one with --register")
    clauses = [_of_ledger(ledger), *_clauses(offers[0], ledger, register, given)]
    decision = decide(name, clauses)
    return _kept(decision, ledger, given)


def proof_states(ledger: Ledger, register: str | None = None) -> list[Proof]:
    """Every entry and how its proof stands today."""
    latest = proofs(ledger)
    entries = (entry for file in _files(register).values() for entry in file.entries)
    return [proof_state(entry, latest.get(entry.id)) for entry in entries]


def proof_state(entry: Entry, row: Row | None) -> Proof:
    """Hold the latest proof of an entry against the entry and the code of today."""
    if entry.status == "planned":
        return Proof(entry.id, entry.title, "planned", "planned: there is no mechanism yet that could be proven")
    if row is None:
        return Proof(entry.id, entry.title, "missing", f"never drilled here; run `premortem drill {entry.id}`")
    data, seeds = row.record.data, row.record.data.get("seeds")
    count = seeds if isinstance(seeds, int) else 0
    changed = _changed(entry, data)
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        because = f"stale: {changed[0]}{more} changed since the drill; run `premortem drill {entry.id}`"
        return Proof(entry.id, entry.title, "stale", because, count, row.hash)
    verdict = str(data.get("verdict"))
    known = verdict if verdict in ("proven", "not proven") else "inconclusive"
    return Proof(entry.id, entry.title, known, f"{verdict} on {count} seeds, row {row.seq}", count, row.hash)


# --- inside ------------------------------------------------------------------------------------


def _files(register: str | None) -> dict[str, RegisterFile]:
    return load_all() if register is None else {register: load_register(register)}


def _changed(entry: Entry, data: Mapping[str, Plain]) -> list[str]:
    files = data.get("files")
    if not isinstance(files, dict):
        return ["a fingerprint that the proof does not hold"]
    old = {name: str(digest) for name, digest in files.items()}
    return fingerprint_of(entry).changed_since(str(data.get("policy")), old)


def fingerprint_of(entry: Entry) -> Fingerprint:
    """Of an entry and its risks' code as they are now."""
    return fingerprint(entry, tuple(find_risk(use.risk, entry.id).package for use in entry.risks))


def _clauses(offer: Offer, ledger: Ledger, register: str | None, given: Given) -> list[Clause]:
    gate = offer.gate
    if gate is None:
        _refuse_unasked(given, (), ())
        return [_of_proof(proof) for proof in proof_states(ledger, register)]
    _refuse_unasked(given, [m.signal for m in gate.measures], gate.requires)
    latest = proofs(ledger)
    entries = {entry.id: entry for entry in load_register(offer.register).entries}
    found = [_of_proof(proof_state(entries[name], latest.get(name))) for name in gate.proven]
    found += [_of_measure(measure, ledger, given) for measure in gate.measures]
    return found + [_of_words(words, given) for words in gate.requires]


def _of_ledger(ledger: Ledger) -> Clause:
    """Proofs are read from the ledger: one that was changed proves nothing."""
    asked, report = "the ledger is exactly what was written", ledger.verify()
    if report.ok:
        return Clause(asked, Answer.GO, f"{report.num_rows} rows, every hash fits")
    return Clause(asked, Answer.NO_GO, f"{report.num_problems} problems: {report.problems[0].text}")


def _of_proof(proof: Proof) -> Clause:
    answers = {"proven": Answer.GO, "missing": Answer.INCONCLUSIVE, "inconclusive": Answer.INCONCLUSIVE}
    asked = f"{proof.entry} ({proof.title}) is proven"
    return Clause(asked, answers.get(proof.state, Answer.NO_GO), proof.because)


def _of_measure(measure: Measure, ledger: Ledger, given: Given) -> Clause:
    value = given.figures.get(measure.signal)
    if value is None:
        newest = max(ledger.readings(measure.signal), key=lambda reading: reading.wall, default=None)
        value = None if newest is None else newest.value
    asked = measure.signal + (f", {measure.unit}" if measure.unit else "")
    return measured(asked, value, measure.go, measure.no_go, lower_is_better=measure.better == "lower")


def _of_words(words: str, given: Given) -> Clause:
    if words in given.signed:
        return Clause(words, Answer.GO, f"signed by {given.by}")
    return Clause(words, Answer.INCONCLUSIVE, "nobody has signed for it; --signed with these words, and --by")


def _refuse_unasked(given: Given, figures: Sequence[str], words: Sequence[str]) -> None:
    for kind, brought, asked in (("figure", [*given.figures], figures), ("evidence", [*given.signed], words)):
        for name in brought:
            if name not in asked:
                known = ", ".join(map(repr, asked)) or "nothing of the kind"
                raise ConfigError(f"found the {kind} {name!r}, the gate asks for {known}{closest(name, asked)}")
    if (given.figures or given.signed) and not given.by:
        raise ConfigError("found evidence without a name, expected who brings it; add --by NAME")


def _kept(decision: Decision, ledger: Ledger, given: Given) -> Decision:
    """Fail closed: a go without evidence of the decision is no go."""
    data: dict[str, Plain] = {
        "gate": decision.gate,
        "answer": decision.answer.value,
        "clauses": [{"asked": c.asked, "answer": c.answer.value, "because": c.because} for c in decision.clauses],
        "by": given.by,
        "figures": dict(given.figures),
        "signed": [*given.signed],
    }
    receipt = ledger.append(Record("gate", "", None, 0, 0.0, data))
    if receipt.committed:
        return decision
    lost = Clause("the decision is kept", Answer.INCONCLUSIVE, f"the ledger did not take it: {ledger.health().fault}")
    return decide(decision.gate, [*decision.clauses, lost])
