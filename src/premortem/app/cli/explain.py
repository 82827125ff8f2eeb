"""``premortem explain RISK``: the risk's page, with its rungs, thresholds, entries and runbook."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from premortem.app.cli.printing import Json, console, emit, table

if TYPE_CHECKING:
    from rich.console import Console

_HEADINGS = (
    "What fails", "Why it hurts", "How it is seen", "Ladder", "Covered / not covered", "Drill", "Source",
)  # fmt: skip


def explain(
    risk: Annotated[str, typer.Argument(help="A risk, such as train/divergence, or an entry's id.")],
    *,
    runbook: Annotated[bool, typer.Option("--runbook", help="Only the runbook.")] = False,
    as_json: Json = False,
) -> None:
    """Explain a risk: what fails, how it is seen, what is done, and what to do by hand."""
    pages = [_page(name) for name in _risks_of(risk)]
    if as_json:
        emit(pages if len(pages) > 1 else pages[0])
        return
    screen = console()
    for page in pages:
        if runbook:
            screen.print(page["runbook"] or f"{page['id']} has no runbook.", markup=False, soft_wrap=True)
        else:
            _print(screen, page)


def _risks_of(name: str) -> list[str]:
    """A risk's own id, or the risks of an entry."""
    from premortem.core.errors import ConfigError
    from premortem.registers.load import load_all
    from premortem.run.discover import find_risk, find_risks
    from premortem.run.suggest import closest

    if name in find_risks():
        return [name]
    entries = {entry.id: entry for file in load_all().values() for entry in file.entries}
    if name in entries:
        if entries[name].risks:
            return [use.risk for use in entries[name].risks]
        raise ConfigError(f"{name} is planned: no risk is built for it yet; `premortem register show {name}` says all")
    if "/" in name:
        find_risk(name, "explain")
    known = [*find_risks(), *entries]
    raise ConfigError(
        f"found the unknown risk {name!r}, expected one of {', '.join(find_risks())}{closest(name, known)}"
    )


def _page(risk_id: str) -> dict[str, Any]:
    from premortem.registers.load import load_all
    from premortem.run.discover import find_risk

    found = find_risk(risk_id, "explain")
    risk = found.load()
    params = risk.params()
    users = [
        {"entry": entry.id, "register": name, "params": dict(use.params)}
        for name, file in load_all().items()
        for entry in file.entries
        for use in entry.risks
        if use.risk == risk_id
    ]
    last = risk.contingency(params)
    return {
        "id": risk_id,
        "title": risk.title,
        "workload": risk.workload,
        "page": found.page(),
        "thresholds": dataclasses.asdict(params),
        "watches": [{"name": w.name, "signal": w.signal, "symptom": w.symptom} for w in risk.watches(params)],
        "rungs": [_rung(r) for r in risk.rungs(params)],
        "contingency": None if last is None else last.name,
        "entries": users,
        "runbook": found.runbook.read_text("utf-8") if found.runbook.is_file() else "",
        "folder": str(found.folder),
    }


def _rung(rung: Any) -> dict[str, Any]:
    return {
        "name": rung.name, "control": rung.control, "does": f"{rung.override.kind} {rung.override.by}",
        "mends": sorted(rung.mends), "relation": rung.relation.value, "tries": rung.tries, "confirm": rung.confirm,
        "deadline": str(rung.deadline),
    }  # fmt: skip


def _print(screen: Console, page: dict[str, Any]) -> None:
    screen.print(f"\n[bold]{page['id']}[/]: {page['title']}\n")
    for line in page["page"].splitlines():
        style = "bold" if line.strip() in _HEADINGS else None
        screen.print(line, style=style, markup=False, soft_wrap=True)
    rungs = table("rung", "control", "does", "mends", "relation", "tries#", title="\nThe ladder as it is built")
    for r in page["rungs"]:
        mends = "everything" if r["mends"] == ["*"] else ", ".join(r["mends"])
        rungs.add_row(r["name"], r["control"], r["does"], mends, r["relation"], str(r["tries"]))
    screen.print(rungs)
    screen.print(f"When the ladder is spent: {page['contingency'] or 'hand over to a person'}.")
    limits = table("threshold", "default#", title="\nThresholds (an entry may set each)")
    for name, value in page["thresholds"].items():
        limits.add_row(name, str(value))
    screen.print(limits)
    used = ", ".join(f"{u['entry']} ({u['register']})" for u in page["entries"]) or "no built-in register yet"
    screen.print(f"Used by: {used}.")
    screen.print("\n[bold]Runbook[/]" if page["runbook"] else "\nNo runbook.")
    screen.print(page["runbook"], markup=False, soft_wrap=True)
