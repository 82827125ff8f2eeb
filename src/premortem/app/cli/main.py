"""``premortem``: the command line. Every command is in a module of its own and loads what it needs when it runs."""

from __future__ import annotations

import logging
import sys

import typer

from premortem.app.cli import check, drill, evidence, explain, gate, infer, new, register, replay, run, supervise, sync
from premortem.app.cli.exits import guarded_exit, own_streams

app = typer.Typer(
    name="premortem",
    help="The risk register that runs: it guards ML workloads, verifies every mitigation, and proves it beforehand.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run.run)
app.command("drill")(drill.drill)
app.command("replay")(replay.replay)
app.command("supervise", context_settings={"allow_interspersed_args": False})(supervise.supervise)
app.command("check")(check.check)
app.command("sync")(sync.sync)
app.command("infer")(infer.infer)
app.command("gate")(gate.gate)
app.add_typer(register.app, name="register")
app.command("explain")(explain.explain)
app.command("new")(new.new)
app.add_typer(evidence.incidents_app, name="incidents")
app.add_typer(evidence.ledger_app, name="ledger")
app.command("report")(evidence.report)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    *,
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    """Exit codes: 0 fine, 1 findings or no-go, 2 your mistake, 3 the program's own fault."""
    if version:
        from premortem import __version__

        typer.echo(f"premortem {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: list[str] | None = None) -> None:
    """The console script: runs a command and leaves with its exit code."""
    own_streams()
    logging.getLogger("premortem").disabled = True  # the command line shows the same records itself
    given = sys.argv[1:] if arguments is None else arguments
    command = typer.main.get_command(app)
    sys.exit(guarded_exit(lambda: command.main(given, prog_name="premortem", standalone_mode=False), given))


if __name__ == "__main__":
    main()
