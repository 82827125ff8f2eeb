"""A postmortem in Markdown: what the ledger knows is filled in, what only people know is asked."""

from __future__ import annotations

import time

from premortem.run.evidence import IncidentView


def postmortem_of(incident: IncidentView) -> str:
    """The document of one incident."""
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(incident.wall))
    took = "no verified recovery" if incident.ticks is None else f"{incident.ticks} steps to a verified recovery"
    after = f" after rung *{incident.after_rung}*" if incident.after_rung else ""
    parts = [
        f"# Postmortem: incident {incident.number}, {incident.entry}",
        f"{when} · {incident.level} · **{incident.verdict}**{after} · {took}",
        "## What was seen", incident.because,
        "## What was tried", _rungs(incident),
        "## Timeline", _timeline(incident),
        "## Why it happened", "_To be written by the owner: the cause, not the symptom._",
        "## What changes", "_To be written: how it is seen earlier or cannot happen again; by whom, by when._",
        f"---\nRun `{incident.run}`. Every row carries the hash of its record; `premortem ledger verify` checks them.",
    ]  # fmt: skip
    if incident.why:
        parts.insert(2, f"Handed over: {incident.why}.")
    return "\n\n".join(parts) + "\n"


def _rungs(incident: IncidentView) -> str:
    if not incident.rungs:
        return "No rung."
    lines = []
    for i, rung in enumerate(incident.rungs, 1):
        why = f": {rung.why}" if rung.why else ""
        lines.append(f"{i}. step {rung.tick}: {rung.rung}, **{rung.verdict or 'not judged'}**{why}")
    return "\n".join(lines)


def _timeline(incident: IncidentView) -> str:
    rows = [f"| {line.tick} | {_cell(line.words)} | `{line.hash[:12]}` |" for line in incident.timeline]
    return "\n".join(["| step | what happened | evidence |", "|---|---|---|", *rows])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
