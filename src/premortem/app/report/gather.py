"""All that the report shows, read from the ledger once."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from premortem.core.evidence import Plain
from premortem.ledger.ledger import Ledger, VerifyReport
from premortem.run.evidence import RunView, proofs, runs
from premortem.run.gate import Proof, proof_states

CURVES = ("loss", "grad_norm")


@dataclass(frozen=True, slots=True)
class Curve:
    """One signal of one arm: ticks, and values that may be not finite."""

    ticks: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Gathered:
    """What a ledger says. ``curves`` are of the last run: signal → arm (``guarded``, ``unguarded``) → curve."""

    runs: list[RunView]
    proofs: list[Proof]
    verified: VerifyReport
    curves: dict[str, dict[str, Curve]]
    cases: list[dict[str, Plain]]

    @property
    def last(self) -> RunView | None:
        """The newest run."""
        return self.runs[-1] if self.runs else None

    def to_json(self) -> dict[str, Plain]:
        """Plain data without the curves."""
        return {
            "runs": [view.to_json() for view in self.runs],
            "proofs": [asdict(proof) for proof in self.proofs],
            "cases": [*self.cases],
            "ledger": {"ok": self.verified.ok, "rows": self.verified.num_rows,
                       "problems": [p.text for p in self.verified.problems]},
        }  # fmt: skip


def gather(ledger: Ledger) -> Gathered:
    """Read runs, incidents, proofs and the last run's curves; walk the chain.

    Raises:
        StageError: a ledger that cannot be read.
    """
    found = runs(ledger)
    curves = _curves(ledger, found[-1]) if found else {}
    return Gathered(found, proof_states(ledger), ledger.verify(), curves, _cases(ledger))


def _curves(ledger: Ledger, last: RunView) -> dict[str, dict[str, Curve]]:
    arms = {"guarded": last.run} | ({"unguarded": last.twin} if last.twin else {})
    found: dict[str, dict[str, Curve]] = {signal: {} for signal in CURVES}
    for arm, run in arms.items():
        for reading in ledger.readings(run=run):
            if reading.signal in found:
                curve = found[reading.signal].setdefault(arm, Curve())
                curve.ticks.append(reading.tick)
                curve.values.append(reading.value)
    return {signal: by_arm for signal, by_arm in found.items() if by_arm}


def _cases(ledger: Ledger) -> list[dict[str, Plain]]:
    """Every case of every latest proof."""
    found: list[dict[str, Plain]] = []
    for row in proofs(ledger).values():
        cases = row.record.data.get("cases")
        found += [case for case in cases if isinstance(case, dict)] if isinstance(cases, list) else []
    return found
