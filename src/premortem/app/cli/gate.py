"""``premortem gate``: go or no-go from evidence; exit code 0 only for go."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from premortem.app.cli.exits import FINDINGS
from premortem.app.cli.printing import Json, LedgerPath, Register, coloured, console, emit, table
from premortem.core.errors import ConfigError


def gate(  # noqa: PLR0913 - the options of a command
    name: Annotated[str | None, typer.Argument(help="A gate's name; `proofs` asks every entry.")] = None,
    *,
    listed: Annotated[bool, typer.Option("--list", help="List the gates.")] = False,
    register: Register = None,
    measured: Annotated[
        list[str] | None, typer.Option("--measured", help="A figure that the gate asks for: 'SIGNAL=VALUE'; repeat.")
    ] = None,
    signed: Annotated[
        list[str] | None, typer.Option("--signed", help="Evidence that the gate requires, word for word; repeat.")
    ] = None,
    by: Annotated[str, typer.Option("--by", help="Who brings figures and signatures; kept with the decision.")] = "",
    ledger: LedgerPath = None,
    as_json: Json = False,
) -> None:
    """Decide go or no-go. What is missing, stale, planned or unknown is no-go, with exit code 1."""
    from premortem.run.gate import Given

    if listed:
        _list(register, as_json=as_json)
        return
    if name is None:
        raise ConfigError("found no gate, expected a NAME; `premortem gate --list` shows them")
    given = Given(by, dict(_figure(text) for text in measured or ()), tuple(signed or ()))
    _decide(name, register, given, ledger, as_json=as_json)


def _list(register: str | None, *, as_json: bool) -> None:
    from premortem.run.gate import gates

    offers = gates(register)
    if as_json:
        emit([{"name": o.name, "title": o.title, "at": o.at, "register": o.register} for o in offers])
        return
    shown = table("gate", "what for", "when", "register")
    for o in offers:
        shown.add_row(o.name, o.title, o.at, o.register)
    console().print(shown)


def _decide(name: str, register: str | None, given: object, ledger: Path | None, *, as_json: bool) -> None:
    from premortem.ledger.ledger import Ledger
    from premortem.run.gate import Given, ask

    assert isinstance(given, Given)
    opened = Ledger.open(ledger)
    try:
        decision = ask(name, opened, register=register, given=given)
    finally:
        opened.close()
    if as_json:
        emit({
            "gate": decision.gate, "passes": decision.passes, "answer": decision.answer.value,
            "clauses": [{"asked": c.asked, "answer": c.answer.value, "because": c.because} for c in decision.clauses],
        })  # fmt: skip
    else:
        shown = table("answer", "asked", "because")
        for c in decision.clauses:
            shown.add_row(coloured(c.answer.value), c.asked, c.because)
        console().print(shown)
        verdict = coloured("go") if decision.passes else f"{coloured('no-go')} ({decision.answer.value})"
        num_go = sum(c.answer.value == "go" for c in decision.clauses)
        console().print(f"[bold]{decision.gate}[/]: {verdict}; {num_go} of {len(decision.clauses)} clauses say go.")
    if not decision.passes:
        raise typer.Exit(FINDINGS)


def _figure(text: str) -> tuple[str, float]:
    signal, sign, value = text.rpartition("=")
    try:
        return signal.strip(), float(value)
    except ValueError:
        sign = ""
    raise ConfigError(f"--measured: found {text!r}{sign}, expected 'SIGNAL=NUMBER'; write the number after the sign =")
