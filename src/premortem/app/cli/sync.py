"""``premortem sync``: sends to the experiment tracker what a run could not send."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from premortem.app.cli.exits import FINDINGS
from premortem.app.cli.printing import Json, console, emit, table
from premortem.core.errors import ConfigError

if TYPE_CHECKING:
    from premortem.stages.tracking.sync import Synced


def sync(
    spool: Annotated[Path, typer.Argument(metavar="SPOOL", help="The folder of one run, or one that holds several.")],
    *,
    wait: Annotated[float, typer.Option(min=1.0, help="Seconds for each run, at most.")] = 120.0,
    as_json: Json = False,
) -> None:
    """Send what lies in a spool, each record once; what is there already is passed over."""
    from dataclasses import asdict

    from premortem.stages.tracking.sync import sync as send

    with console(to_stderr=True).status(f"sending what lies in {spool}: up to {wait:g} s a run"):
        rows = send(spool, wait_s=wait)
    if as_json:
        emit([asdict(row) for row in rows])
    else:
        _print(rows)
    refused = [row for row in rows if row.refused]
    if refused:
        raise ConfigError(f"{refused[0].fault}; nothing was lost: mend the credentials and sync again")
    if any(row.unsent or row.fault for row in rows):
        raise typer.Exit(FINDINGS)


def _print(rows: list[Synced]) -> None:
    screen = console()
    shown = table("run", "records#", "unsent#", "damaged#", "rejected#")
    for row in rows:
        counts = ("?" if n is None else str(n) for n in (row.records, row.unsent, row.damaged, row.rejected))
        shown.add_row(row.run, *counts)
    screen.print(shown)
    for row in rows:
        if row.fault and not row.refused:
            screen.print(f"{row.spool}: {row.fault}", style="red", markup=False, soft_wrap=True)
