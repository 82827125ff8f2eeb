"""``premortem drill``: inject the real fault into a real workload, and judge what the guard made of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import typer

from premortem.app.cli.exits import FINDINGS
from premortem.app.cli.printing import Json, LedgerPath, Register, coloured, console, emit, table
from premortem.core.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from premortem.ledger.ledger import Ledger
    from premortem.run.drill import DrillRow


def drill(
    entries: Annotated[
        list[str] | None, typer.Argument(metavar="[ENTRY]...", help="Entries by id, or risks such as train/divergence.")
    ] = None,
    *,
    register: Register = None,
    every: Annotated[bool, typer.Option("--all", help="Every active entry.")] = False,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds; the worst one is printed.")] = 3,
    ledger: LedgerPath = None,
    as_json: Json = False,
) -> None:
    """Run baseline, unguarded and guarded arms on the same seeds; write a proof; print the worst seed.

    Without ENTRY, --register R drills every active entry in R.
    """
    names = entries or []
    if not (names or every or register):
        raise ConfigError(
            "found no entry, expected ENTRY..., --register R for all active ones in it, or --all; "
            "`premortem register list` shows the entries"
        )
    if names and every:
        raise ConfigError(f"found {' '.join(names)} and --all, expected one of the two; leave one out")
    from premortem.ledger.ledger import Ledger

    screen = console(to_stderr=True)
    opened = Ledger.open(ledger)
    try:
        rows = _run(names, register, seeds, opened, screen)
    finally:
        opened.close()
    if as_json:
        emit([row.to_json() for row in rows])
    else:
        _print(rows)
    if not rows or any(row.verdict != "proven" for row in rows):
        raise typer.Exit(FINDINGS)


def _run(names: list[str], register: str | None, seeds: int, ledger: Ledger, screen: Console) -> list[DrillRow]:
    """Risks by their own id are drilled by an entry made for them: a new risk needs no register to be tried."""
    from premortem.app.cli.draft import draft_register
    from premortem.run.drill import find_entries, run_drills

    risks = [name for name in names if "/" in name]
    named = [name for name in names if "/" not in name]
    rows: list[DrillRow] = []
    if named or not names:
        find_entries(named, register)  # a mistake is told before anything runs
    with draft_register(risks) as draft, screen.status("drilling: real runs, real faults") as status:

        def progress(text: str) -> None:
            screen.print(f"[dim]{text}[/]")
            status.update(f"drilling: {text}")

        if named or not names:
            rows += run_drills(named, register=register, seeds=seeds, ledger=ledger, progress=progress)
        if draft is not None:
            rows += run_drills([], register=str(draft), seeds=seeds, ledger=ledger, progress=progress)
    return rows


def _print(rows: list[DrillRow]) -> None:
    screen = console()
    shown = table("entry", "case", "verdict", "seeds#", "baseline#", "unguarded#", "guarded#", "seen after#",
                  "recovered after rung", "in#")  # fmt: skip
    for row in rows:
        shown.add_row(
            row.entry, row.case, coloured(row.verdict), str(row.seeds), _figure(row.baseline), _figure(row.unguarded),
            _figure(row.guarded), _ticks(row.detected_after), row.recovered_after or "", _ticks(row.recovered_in),
        )  # fmt: skip
    screen.print(shown)
    for row in rows:
        for why in row.failures:
            screen.print(f"{row.entry}, {row.case}: {why}", style="red", markup=False, soft_wrap=True)
    proven = [row for row in rows if row.verdict == "proven"]
    if proven:
        least = min(row.recovery_at_least for row in proven)
        seeds = min(row.seeds for row in proven)
        screen.print(f"What {seeds} of {seeds} seeds really show: recovery at least {least:g} of the time, at 95 %.")


def _figure(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "lost"


def _ticks(value: int | None) -> str:
    return "" if value is None else f"{value} steps"
