"""Summaries for the screen, in words that a newcomer understands."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from premortem.app.cli.printing import coloured, table

if TYPE_CHECKING:
    from rich.console import Console

    from premortem.app.report.gather import Gathered
    from premortem.run.evidence import IncidentView, RunView
    from premortem.run.job import Result


def print_run(screen: Console, result: Result, view: RunView, places: tuple[Path, Path]) -> None:
    """What was noticed, what was tried, after which rung it recovered, what it cost, where the evidence is."""
    from rich.panel import Panel

    ledger, report = places
    lines = [*_of_incidents(result, view), *_of_outcome(result)]
    lines.append(f"[bold]Evidence[/]   {ledger} (check it: premortem ledger verify), page: {report}")
    title = "[bold]what happened[/]"
    screen.print(Panel("\n".join(lines), title=title, title_align="left", padding=(1, 2), expand=False))


def _of_incidents(result: Result, view: RunView) -> list[str]:
    if result.guarded is None:
        return ["[bold]Noticed[/]    nothing: there was no guard on this run."]
    if not view.incidents:
        return ["[bold]Noticed[/]    nothing that needed a rung; the guard only watched."]
    return [line for incident in view.incidents for line in _of_incident(incident, result)]


def _of_incident(incident: IncidentView, result: Result) -> list[str]:
    from rich.markup import escape

    late = ""
    if result.fault_at is not None and incident.tick >= result.fault_at:
        after = incident.tick - result.fault_at
        late = f", {after} step{'s' if after != 1 else ''} after the fault came" if after else ", as the fault came"
    tried = " → ".join(f"{rung} [dim]({verdict})[/]" for rung, verdict in _in_short(incident))
    lines = [
        f"[bold]Noticed[/]    at step {incident.tick}{late}: {escape(incident.because)}",
        f"[bold]Tried[/]      {tried or 'no rung'}",
    ]
    if incident.ticks is not None:
        lines.append(
            f"[bold]Verdict[/]    {coloured(incident.verdict)} after rung [bold]{incident.after_rung}[/], "
            f"{incident.ticks} steps after it was noticed, relapse watch included"
        )
    else:
        lines.append(f"[bold]Verdict[/]    {coloured(incident.verdict)}: {escape(incident.why or 'still open')}")
    return lines


def _in_short(incident: IncidentView) -> list[tuple[str, str]]:
    return [(r.rung, r.verdict or "not judged") for r in incident.rungs if not r.why.startswith("put back")]


def _of_outcome(result: Result) -> list[str]:
    lines = []
    if result.guarded is not None:
        extra = result.ticks - result.num_steps
        cost = f"{extra} extra steps beyond {result.num_steps}" if extra > 0 else "no extra step"
        cost = f"the run ended early ({result.stopped})" if result.stopped else cost
        lines.append(f"[bold]Cost[/]       {cost}")
    told = [f"{name} {_loss(value)}" for name, value in (("guarded", result.guarded), ("unguarded", result.unguarded))
            if value is not None]  # fmt: skip
    lines.append(f"[bold]Final loss[/] {', '.join(told)} (nats, lower is better; same seed, same fault)")
    return lines


def _loss(value: float) -> str:
    return f"[bold]{value:.4g}[/]" if math.isfinite(value) else "[bold red]not a number: everything learnt is lost[/]"


def print_report(screen: Console, found: Gathered) -> None:
    """Runs, incidents and proofs of a ledger."""
    shown = table("run", "steps#", "last good#", "findings#", "incidents#", "guarded#", "unguarded#", "ended")
    for view in found.runs:
        shown.add_row(
            Path(view.run).name, "" if view.steps is None else str(view.steps),
            "none" if view.last_good is None else f"tick {view.last_good}", str(view.num_findings),
            str(len(view.incidents)), _bare(view.outcome), _bare(view.twin_outcome),
            view.why or ("yes" if view.ended else "no"),
        )  # fmt: skip
    screen.print(shown if found.runs else "No run in this ledger.")
    proofs = table("entry", "proof", "seeds#", "because")
    for proof in found.proofs:
        if proof.state != "planned":
            proofs.add_row(proof.entry, coloured(proof.state), str(proof.seeds or ""), proof.because)
    screen.print(proofs)
    num_planned = sum(proof.state == "planned" for proof in found.proofs)
    screen.print(f"{num_planned} entries are planned and count as unproven. `premortem report --html FILE` for a page.")


def _bare(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
