"""``premortem incidents``, ``premortem ledger``, ``premortem report``: the evidence, read anew each time."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from premortem.app.cli.exits import FINDINGS
from premortem.app.cli.printing import Json, LedgerPath, coloured, console, emit, open_existing, table
from premortem.core.errors import ConfigError

if TYPE_CHECKING:
    from premortem.ledger.ledger import Ledger
    from premortem.run.evidence import IncidentView

incidents_app = typer.Typer(
    help="Incidents: list, show, postmortem; release a latch, accept a new normal.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
ledger_app = typer.Typer(help="The ledger: verify, export.", no_args_is_help=True, rich_markup_mode=None)

Who = Annotated[str, typer.Option("--who", help="Who says so; kept as evidence. Default: the user's name.")]
Number = Annotated[int, typer.Argument(min=1, help="The incident's number in `premortem incidents list`.")]


@contextlib.contextmanager
def _opened(path: Path | None) -> Iterator[Ledger]:
    ledger = open_existing(path)
    try:
        yield ledger
    finally:
        ledger.close()


# --- incidents ---------------------------------------------------------------------------------


@incidents_app.command("list")
def list_incidents(*, ledger: LedgerPath = None, as_json: Json = False) -> None:
    """Every incident of the ledger, oldest first."""
    from premortem.run.evidence import incidents

    with _opened(ledger) as opened:
        found = incidents(opened)
    if as_json:
        emit([i.to_json() for i in found])
        return
    shown = table("#", "when", "entry", "level", "verdict", "after rung", "took#", "run")
    for i in found:
        took = "" if i.ticks is None else f"{i.ticks} steps"
        shown.add_row(str(i.number), _when(i.wall), i.entry, coloured(i.level), coloured(i.verdict), i.after_rung, took,
                      Path(i.run).name)  # fmt: skip
    screen = console()
    screen.print(shown if found else "No incident in this ledger.")


@incidents_app.command("show")
def show(number: Number, *, ledger: LedgerPath = None, as_json: Json = False) -> None:
    """One incident with its timeline and the hash of every record."""
    incident = _find(number, ledger)
    if as_json:
        emit(incident.to_json())
        return
    screen = console()
    after = f" after {incident.after_rung!r}" if incident.after_rung else ""
    level, verdict = coloured(incident.level), coloured(incident.verdict)
    screen.print(f"\n[bold]Incident {number}[/] · {incident.entry} · {level} · {verdict}{after}")
    screen.print(incident.because, markup=False, soft_wrap=True)
    shown = table("step#", "what happened", "evidence")
    for line in incident.timeline:
        shown.add_row(str(line.tick), line.words, f"[dim]{line.hash[:12]}[/]")
    screen.print(shown)


@incidents_app.command("postmortem")
def postmortem(number: Number, *, ledger: LedgerPath = None, as_json: Json = False) -> None:
    """One incident as a document in Markdown, to be finished by people."""
    from premortem.app.report.postmortem import postmortem_of

    text = postmortem_of(_find(number, ledger))
    if as_json:
        emit({"number": number, "markdown": text})
    else:
        typer.echo(text)


@incidents_app.command("ack")
def ack(
    entry: Annotated[str, typer.Argument(help="The entry whose incident was handed over.")],
    *,
    who: Who = "",
    ledger: LedgerPath = None,
    as_json: Json = False,
) -> None:
    """Release the latch of an entry that was handed over: its guard may open incidents again."""
    from premortem.run.evidence import incidents
    from premortem.run.suggest import closest

    with _opened(ledger) as opened:
        handed = [i for i in incidents(opened) if i.verdict == "handed over"]
    mine = [i for i in handed if i.entry == entry]
    if not mine:
        names = sorted({i.entry for i in handed})
        told = ", ".join(names) or "none: nothing was handed over"
        raise ConfigError(f"found no incident of {entry!r} that was handed over, expected one of {told}"
                          f"{closest(entry, names)}")  # fmt: skip
    _ask("acknowledged", entry, mine[-1].run, who, ledger, as_json=as_json)


@incidents_app.command("rebaseline")
def rebaseline(
    *,
    run: Annotated[str, typer.Option("--run", help="The run's id; the last run when left out.")] = "",
    who: Who = "",
    ledger: LedgerPath = None,
    as_json: Json = False,
) -> None:
    """Accept a new normal: the run's guard learns its detectors and healthy bands again."""
    from premortem.run.evidence import runs

    with _opened(ledger) as opened:
        known = [view.run for view in runs(opened)]
    chosen = [name for name in known if run in ("", name)]
    if not chosen:
        raise ConfigError(f"found no run {run!r} in the ledger, expected one of {', '.join(known) or 'none yet'}")
    _ask("rebaselined", "", chosen[-1], who, ledger, as_json=as_json)


def _ask(
    event: Literal["acknowledged", "rebaselined"], entry: str, run: str, who: str, path: Path | None, *, as_json: bool
) -> None:  # fmt: skip
    import getpass

    from premortem.core.errors import StageError
    from premortem.ledger.ledger import Ledger
    from premortem.ledger.location import ledger_path
    from premortem.run.evidence import request

    name = who or getpass.getuser()
    opened = Ledger.open(ledger_path(path), run=run)
    try:
        receipt = request(opened, event, entry, name)
        fault = opened.health().fault
    finally:
        opened.close()
    if not receipt.committed:
        raise StageError(f"the request was not kept: {fault}")
    if as_json:
        emit({"event": event, "entry": entry, "run": run, "who": name, "seq": receipt.seq, "hash": receipt.hash})
    else:
        told = f"The guard of {run} honours it when it next asks, at the latest on resume."
        console().print(f"{event} by {name}, evidence row {receipt.seq}. {told}", markup=False, soft_wrap=True)


def _find(number: int, path: Path | None) -> IncidentView:
    from premortem.run.evidence import incidents

    with _opened(path) as opened:
        found = incidents(opened)
    if number > len(found):
        raise ConfigError(f"found no incident {number}, the ledger holds {len(found)}; see `premortem incidents list`")
    return found[number - 1]


# --- ledger ------------------------------------------------------------------------------------


@ledger_app.command("verify")
def verify(*, ledger: LedgerPath = None, as_json: Json = False) -> None:
    """Walk the whole chain: is the ledger exactly what was written? Exit code 1 where it is not."""
    with _opened(ledger) as opened:
        report = opened.verify()
    if as_json:
        problems = [{"seq": p.seq, "text": p.text} for p in report.problems]
        emit({"ok": report.ok, "rows": report.num_rows, "first_bad": report.first_bad,
              "num_problems": report.num_problems, "problems": problems})  # fmt: skip
    else:
        screen = console()
        for p in report.problems:
            screen.print(f"row {'?' if p.seq is None else p.seq}: {p.text}", style="red", markup=False, soft_wrap=True)
        told = "every hash fits" if report.ok else f"{report.num_problems} problems"
        screen.print(f"{coloured('ok') if report.ok else '[red]changed[/]'}: {report.num_rows} rows, {told}.")
    if not report.ok:
        raise typer.Exit(FINDINGS)


@ledger_app.command("export")
def export(
    *,
    form: Annotated[Literal["jsonl", "csv"], typer.Option("--form", help="JSON lines, or a sheet.")] = "jsonl",
    out: Annotated[Path | None, typer.Option("--out", help="A file; stdout when left out.")] = None,
    ledger: LedgerPath = None,
    as_json: Json = False,
) -> None:
    """Every record, for other tools."""
    from premortem.ledger.export import export as write

    if as_json and out is None:
        form = "jsonl"
    with _opened(ledger) as opened:
        if out is None:
            write(opened, sys.stdout, form)
            return
        try:
            with out.open("w", encoding="utf-8", newline="") as stream:
                num_rows = write(opened, stream, form)
        except OSError as error:
            raise ConfigError(f"--out: {out} cannot be written ({error.strerror}); name another place") from None
    if as_json:
        emit({"rows": num_rows, "out": str(out)})
    else:
        console().print(f"{num_rows} records in {out}.", markup=False, soft_wrap=True)


# --- report ------------------------------------------------------------------------------------


def report(
    *,
    html: Annotated[Path | None, typer.Option("--html", help="Write the report as one page that stands alone.")] = None,
    picture: Annotated[
        Path | None, typer.Option("--picture", help="Write the last run's loss, guarded and unguarded, as SVG.")
    ] = None,
    ledger: LedgerPath = None,
    as_json: Json = False,
) -> None:
    """The evidence in short: runs, incidents, proofs; or as a page, or as a picture."""
    from premortem.app.report.gather import gather

    with _opened(ledger) as opened:
        found = gather(opened)
    written: list[str] = []
    if html is not None:
        from premortem.app.report.page import write_page

        written.append(str(write_page(found, html)))
    if picture is not None:
        from premortem.app.report.picture import write_picture

        written.append(str(write_picture(found, picture)))
    if as_json:
        emit({**found.to_json(), "written": written})
        return
    screen = console()
    if not written:
        from premortem.app.cli.summary import print_report

        print_report(screen, found)
    for path in written:
        screen.print(f"written: {path}", markup=False, soft_wrap=True)


def _when(wall: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(wall))
