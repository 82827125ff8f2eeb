"""``premortem check``: preflight. Is all in place that the registers' prevention asks for? Unknown is not ok."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from premortem.app.cli.exits import FINDINGS
from premortem.app.cli.printing import Json, LedgerPath, coloured, console, emit, table

if TYPE_CHECKING:
    from premortem.run.preflight.row import Row


def check(  # noqa: PLR0913 - the options of a command
    stages: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[STAGE]...",
            help="registers, runbooks, dependencies, storage, memory, devices, data, trackers, flags; else all.",
        ),
    ] = None,
    *,
    folder: Annotated[Path, typer.Option("--folder", help="Where checkpoints will go.")] = Path("checkpoints"),
    register: Annotated[str, typer.Option("--register", help="The register that will guard the run.")] = "default",
    need_gb: Annotated[
        float | None, typer.Option("--need-gb", help="What the next phase will write, in GiB; 1.5 × that must be free.")
    ] = None,
    memory_gb: Annotated[
        float | None, typer.Option("--memory-gb", help="What the run will hold at its peak, in GiB.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda or cuda:N; any when left out.")] = "",
    extras: Annotated[
        list[str] | None, typer.Option("--extra", help="An extra of the package that must be there; repeat.")
    ] = None,
    datasets: Annotated[list[str] | None, typer.Option("--dataset", help="A data set by name; repeat.")] = None,
    trackers: Annotated[list[str] | None, typer.Option("--tracker", help="A tracker by name; repeat.")] = None,
    ledger: LedgerPath = None,
    as_json: Json = False,
) -> None:
    """Check all that applies, or only some stages; exit code 0 only when everything asked is ok."""
    from premortem.run.preflight.checks import run_checks
    from premortem.run.preflight.row import Asked

    asked = Asked(
        folder=folder, ledger=ledger, register=register, need_gb=need_gb, memory_gb=memory_gb, device=device,
        extras=tuple(extras or ()), datasets=tuple(datasets or ()), trackers=tuple(trackers or ()),
    )  # fmt: skip
    found = run_checks(stages or [], asked)
    every = [row for rows in found.values() for row in rows]
    passes = all(row.passes for row in every) and any(row.state == "ok" for row in every)  # nothing seen is no health
    if as_json:
        checks = [{"stage": stage, **row.to_json()} for stage, rows in found.items() for row in rows]
        emit({"passes": passes, "checks": checks})
    else:
        _print(found, passes=passes)
    if not passes:
        raise typer.Exit(FINDINGS)


def _print(found: dict[str, list[Row]], *, passes: bool) -> None:
    screen = console()
    shown = table("stage", "", "what", "found", "expected", "do")
    for stage, rows in found.items():
        for row in rows:
            shown.add_row(stage, coloured(row.state), *_escaped(row.what, row.found, row.expected, row.do))
    screen.print(shown)
    every = [row for rows in found.values() for row in rows]
    counts = {state: sum(row.state == state for row in every) for state in ("ok", "not ok", "unknown", "not asked")}
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    nothing = "" if passes or counts["not ok"] or counts["unknown"] else "; nothing was checked"
    screen.print(f"[bold]preflight[/]: {coloured('go' if passes else 'no-go')}; {told}{nothing}.")


def _escaped(*cells: str) -> list[str]:
    from rich.markup import escape

    return [escape(cell) for cell in cells]
