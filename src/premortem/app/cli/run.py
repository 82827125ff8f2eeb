"""``premortem run``: the main job, live."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from premortem.app.cli.exits import FINDINGS
from premortem.app.cli.printing import Json, LedgerPath, console, emit

if TYPE_CHECKING:
    from premortem.run.evidence import RunView
    from premortem.run.job import Job, Result


def run(  # noqa: PLR0913 - the options of a command
    pipeline: Annotated[str, typer.Argument(help="A built-in job; `train` is the only one so far.")] = "train",
    *,
    fault: Annotated[str, typer.Option(help="The fault in mid-run: learning-rate, poison, none.")] = "learning-rate",
    seed: Annotated[int, typer.Option(help="Of weights and batches.")] = 0,
    register: Annotated[str, typer.Option(help="A register: a YAML file, or the name of a built-in one.")] = "default",
    unguarded: Annotated[bool, typer.Option("--unguarded", help="Only the run without the guard.")] = False,
    twin: Annotated[bool, typer.Option("--twin/--no-twin", help="Also run the unguarded twin, to compare.")] = True,
    folder: Annotated[Path, typer.Option(help="Where ledger, checkpoints and report go.")] = Path(".premortem"),
    ledger: LedgerPath = None,
    as_json: Json = False,
) -> None:
    """Guard a real training run with a real fault on the way; show what was noticed, tried and verified."""
    from premortem.ledger.location import ledger_path
    from premortem.run.job import Job, find_job

    find_job(pipeline)
    job = Job(folder=folder, fault=fault, seed=seed, register=register, guarded=not unguarded, twin=twin)
    _check_folder(folder)
    place = ledger_path(ledger) if ledger is not None else folder / "ledger.db"
    result = _run(job, place, as_json=as_json)
    report = _report(place, folder)
    if as_json:
        _emit(result, place, report)
    else:
        from premortem.app.cli.summary import print_run

        print_run(console(), result, _evidence(result, place), (place, report))
    if not _ended_well(result, place):
        raise typer.Exit(FINDINGS)


def _check_folder(folder: Path) -> None:
    from premortem.core.errors import ConfigError

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--folder: {folder} cannot be made ({error.strerror}); name a writable folder") from None


def _run(job: Job, place: Path, *, as_json: bool) -> Result:
    from premortem.app.cli.live import Live
    from premortem.run.job import Audience, run_job

    with Live(console(to_stderr=as_json), job) as live:
        return run_job(job, place, Audience(live.watch, live.hear))


def _report(place: Path, folder: Path) -> Path:
    from premortem.app.report.gather import gather
    from premortem.app.report.page import write_page
    from premortem.ledger.ledger import Ledger

    opened = Ledger.open(place)
    try:
        return write_page(gather(opened), folder / "report.html")
    finally:
        opened.close()


def _ended_well(result: Result, place: Path) -> bool:
    """Whether every incident recovered; what was handed over waits for a person."""
    return not result.stopped and all(i.verdict.startswith("recovered") for i in _evidence(result, place).incidents)


def _emit(result: Result, place: Path, report: Path) -> None:
    from dataclasses import asdict

    evidence = _evidence(result, place).to_json()
    emit({**asdict(result), "evidence": evidence, "ledger": str(place), "report": str(report)})


def _evidence(result: Result, place: Path) -> RunView:
    from premortem.ledger.ledger import Ledger
    from premortem.run.evidence import RunView, runs

    opened = Ledger.open(place)
    try:
        mine = [view for view in runs(opened) if view.run == result.run]
    finally:
        opened.close()
    return mine[-1] if mine else RunView(result.run, 0.0)
