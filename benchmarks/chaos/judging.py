"""What the chaos run came to: losses, and whether each fault and each action can be traced in the evidence."""

from __future__ import annotations

import json
from pathlib import Path

from premortem.ledger.ledger import Ledger, Row

WITHIN = 0.01
GOODPUT = 0.95
TRACES = {"finding", "opened", "guard_fault", "unwatched", "run"}
BY_ITSELF = "GREEN for a whole relapse watch"
"""How a latch opens with nobody's help."""
UNSEEN = {"tracker's sender killed"}
"""Seen by the tracker, which starts its sender again and tells it in its own folder."""


def judge(home: Path, faults: dict[int, str], goodput: float) -> dict[str, object]:
    """Figures, and ``missed``: every bound that does not hold, in words."""
    missed: list[str] = []
    clean, chaos = home / "clean", home / "chaos"
    losses = [_loss(folder) for folder in (clean, chaos)]
    if None in losses:
        missed.append("a run did not reach its end")
        excess = None
    else:
        excess = losses[1] / losses[0] - 1.0  # type: ignore[operator]
        if excess > WITHIN:
            missed.append(f"validation loss {excess:+.2%} over the clean run, bound {WITHIN:.0%}")
    if goodput < GOODPUT:
        missed.append(f"goodput {goodput:.1%}, bound {GOODPUT:.0%}")
    rows = {name: _rows(chaos / f"{name}.db", missed) for name in ("ledger", "supervise")}
    met = [json.loads(line) for line in (chaos / "diary.jsonl").read_text().splitlines()]
    if len(met) < len(faults):
        missed.append(f"{len(faults) - len(met)} faults never came")
    untraced = [f"{m['kind']} at step {m['step']}" for m in _untraced(met, [*rows["ledger"], *rows["supervise"]])]
    missed += [f"untraced: {what}" for what in untraced]
    asked = [
        row for name in rows for row in rows[name]
        if row.record.event in ("acknowledged", "rebaselined") and row.record.data.get("who") != BY_ITSELF
    ]  # fmt: skip
    missed += [f"a person lent a hand: {r.record.data}" for r in asked]
    stopped = [r for name in rows for r in rows[name] if r.record.event == "handed_over"]
    return {
        "validation": losses,
        "excess": excess,
        "faults_met": len(met),
        "incidents": sum(r.record.event == "opened" for name in rows for r in rows[name]),
        "restarts": _restarts(chaos),
        "stopped_in_good_order": [f"{r.record.entry}: {r.record.data.get('why')}" for r in stopped],
        "missed": missed,
    }


def _loss(folder: Path) -> float | None:
    path = folder / "result.json"
    return float(json.loads(path.read_text())["validation"]) if path.exists() else None


def _rows(path: Path, missed: list[str]) -> list[Row]:
    """All evidence of one ledger, whose chain must verify and whose intents must have outcomes."""
    ledger = Ledger.open(path)
    try:
        report = ledger.verify()
        missed += [f"{path.name}: {what}" for what in report.problems]
        missed += [f"{path.name}: an intent without an outcome: {row.record.data}" for row in ledger.unsettled()]
        return list(ledger.records())
    finally:
        ledger.close()


def _untraced(met: list[dict], rows: list[Row]) -> list[dict]:
    """Faults after which no evidence was written before the next one came."""
    ends = [m["wall"] for m in met[1:]] + [float("inf")]
    walls = sorted(row.wall for row in rows if row.record.event in TRACES)
    return [
        m for m, end in zip(met, ends, strict=True)
        if m["kind"] not in UNSEEN and not any(m["wall"] <= wall < end for wall in walls)
    ]  # fmt: skip


def _restarts(chaos: Path) -> int | None:
    path = chaos / "summary.json"
    return json.loads(path.read_text()).get("restarts") if path.exists() else None
