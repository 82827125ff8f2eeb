"""``premortem register``: what is written down, and what of it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from premortem.app.cli.printing import Json, Register, coloured, console, emit, table
from premortem.core.errors import ConfigError

app = typer.Typer(help="The registers: list, show, validate, schema.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_entries(*, register: Register = None, as_json: Json = False) -> None:
    """Every entry of the built-in registers, or of one; and the risks that no entry uses yet."""
    from premortem.registers.load import load_all, load_register
    from premortem.run.discover import find_risks

    files = load_all() if register is None else {register: load_register(register)}
    rows = [(name, entry) for name, file in files.items() for entry in file.entries]
    used = {use.risk for _, entry in rows for use in entry.risks}
    unused = [risk for risk in sorted(find_risks()) if risk not in used]
    if as_json:
        emit([
            {"id": e.id, "register": name, "title": e.title, "stage": e.stage, "status": e.status,
             "severity": e.severity, "probability": e.probability, "owner": e.owner,
             "risks": [use.risk for use in e.risks]}
            for name, e in rows
        ] + [{"id": None, "register": None, "risks": [risk], "status": "no entry"} for risk in unused])  # fmt: skip
        return
    screen = console()
    shown = table("entry", "status", "severity", "stage", "title", "risks", "register")
    for name, e in rows:
        risks = ", ".join(use.risk for use in e.risks)
        shown.add_row(e.id, coloured(e.status), e.severity, e.stage, e.title, risks, name)
    screen.print(shown)
    num_active = sum(e.status == "active" for _, e in rows)
    counts = ", ".join(f"{len(file.entries)} {name}" for name, file in files.items())
    screen.print(f"{len(rows)} entries ({counts}), {num_active} active.", highlight=False)
    screen.print("A planned entry is written down and not watched: it is unproven, and can never pass a gate.")
    if register is None and unused:
        screen.print(f"Risks without an entry: {', '.join(unused)}. Name them in a register to run them.")


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="An entry's id, or a register's name or file.")],
    *,
    as_json: Json = False,
) -> None:
    """One entry with all that it says, or one register."""
    import msgspec

    from premortem.registers.load import builtin_names, load_all, load_register
    from premortem.registers.mistake import closest

    known = {entry.id: entry for file in load_all().values() for entry in file.entries}
    if name in known:
        found: object = msgspec.to_builtins(known[name])
    elif name in builtin_names() or Path(name).suffix in (".yaml", ".yml"):
        found = msgspec.to_builtins(load_register(name))
    else:
        places = [*known, *builtin_names()]
        raise ConfigError(
            f"found the unknown entry or register {name!r}, expected an id from `premortem register list`"
            f"{closest(name, places)}"
        )
    if as_json:
        emit(found)
        return
    import yaml

    text = yaml.safe_dump(found, sort_keys=False, allow_unicode=True, width=110)
    console().print(text, markup=False, soft_wrap=True)


@app.command("validate")
def validate(
    file: Annotated[str, typer.Argument(help="A register: a YAML file, or a built-in's name.")],
    *,
    as_json: Json = False,
) -> None:
    """Check a register: its shape, its rules, and its risks with their parameters and rungs."""
    from premortem.registers.load import load_register
    from premortem.run.bind import bind_ladder, bind_risks

    loaded = load_register(file)
    for i, entry in enumerate(loaded.entries):
        if entry.status == "active":
            where = f"{file}: $.entries[{i}]"
            bind_ladder(entry, bind_risks(entry, where), where)
    active = [e.id for e in loaded.entries if e.status == "active"]
    if as_json:
        emit({"register": loaded.register, "valid": True, "entries": len(loaded.entries), "active": active})
        return
    told = f"{len(loaded.entries)} entries, {len(active)} active; risks, parameters and rungs are known"
    console().print(f"[green]valid[/]: {loaded.register}, {told}.", soft_wrap=True)


@app.command("schema")
def schema(*, as_json: Json = False) -> None:
    """The JSON schema of a register file, for editors; it is JSON with and without --json."""
    from premortem.registers.schema import json_schema

    typer.echo(json.dumps(json_schema(), indent=1, ensure_ascii=False))
