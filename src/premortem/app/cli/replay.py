"""``premortem replay``: the detectors of the live path over a recorded log. Would we have caught it, and when?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from premortem.app.cli.exits import FINDINGS
from premortem.app.cli.printing import Json, coloured, console, emit, table
from premortem.core.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from premortem.run.replay.heard import Alarm
    from premortem.run.replay.replay import Replayed

_SHOWN = 40


def replay(  # noqa: PLR0913 - the options of a command
    log: Annotated[
        Path,
        typer.Argument(help="CSV or JSON lines (.gz too), TensorBoard events or their folder, trainer_state.json."),
    ],
    *,
    register: Annotated[str, typer.Option("--register", help="A register: a file or a built-in name.")] = "default",
    columns: Annotated[
        list[str] | None, typer.Option("--columns", metavar="NAME=SIGNAL", help="Read this column as this; repeat.")
    ] = None,
    only: Annotated[
        str | None, typer.Option("--only", metavar="NAME=VALUE", help="Only rows with this value: one run of several.")
    ] = None,
    healthy: Annotated[bool, typer.Option("--healthy", help="The run was healthy: every alarm is false.")] = False,
    onset: Annotated[float | None, typer.Option("--onset", help="The step at which the trouble began.")] = None,
    picture: Annotated[
        Path | None, typer.Option("--picture", help="Write the loss with its marks: .svg, .png.")
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write all of it as one page.")] = None,
    as_json: Json = False,
) -> None:
    """Replay a log; exit code 0 where nothing was RED or worse, 1 where something was, 2 for a bad log."""
    from premortem.run.replay.replay import replay as run
    from premortem.run.replay.verdict import to_json

    _refuse_other_forms(picture)
    given = dict(_pair(text, "--columns", "NAME=SIGNAL") for text in columns or ())
    found = run(log, register, given, None if only is None else _pair(only, "--only", "NAME=VALUE"))
    written = _write(found, picture, html)
    if as_json:
        emit({**to_json(found, healthy=healthy, onset=onset), "written": written})
    else:
        _print(console(), found, healthy=healthy, onset=onset)
        for path in written:
            console().print(f"written: {path}", markup=False, soft_wrap=True)
    if found.heard.num_alarms:
        raise typer.Exit(FINDINGS)


def _write(found: Replayed, picture: Path | None, html: Path | None) -> list[str]:
    if picture is None and html is None:
        return []
    from premortem.app.report.replayed import write_page, write_picture

    written = [] if picture is None else [str(write_picture(found, picture))]
    return written if html is None else [*written, str(write_page(found, html))]


def _refuse_other_forms(picture: Path | None) -> None:
    if picture is not None and picture.suffix.lower() not in (".svg", ".png"):
        raise ConfigError(f"--picture: found {picture.name!r}, expected a name that ends in .svg or .png")


def _pair(text: str, option: str, form: str) -> tuple[str, str]:
    name, sign, value = text.rpartition("=")
    if not sign or not name.strip() or not value.strip():
        raise ConfigError(f"{option}: found {text!r}, expected {form}, such as --columns train/ce=loss")
    return name.strip(), value.strip()


def _print(screen: Console, found: Replayed, *, healthy: bool, onset: float | None) -> None:
    from premortem.run.replay.columns import RATE
    from premortem.run.replay.verdict import notes_of

    walk, roles = found.walk, found.columns.roles
    read = ", ".join(f"{name} → {role}" for name, role in found.columns.signals.items())
    read += "".join(
        f", {name} → {role}" + ("" if role != RATE else " (no watch reads it)") for role, name in roles.items()
    )
    runs = "" if found.num_runs == 1 else f" of {found.num_runs} runs"
    _say(screen, f"{found.path} ({found.kind}): {walk.num_rows} observations{runs}, steps {walk.first:g} to "
                 f"{walk.step:g}, by the register {found.register}.")  # fmt: skip
    _say(screen, f"Read: {read}.")
    if found.columns.unread:
        _say(screen, f"Not read: {', '.join(found.columns.unread)} (--columns NAME=SIGNAL reads one).", "yellow")
    if found.unlogged:
        blind = "; ".join(f"{signal} ({', '.join(watches)})" for signal, watches in found.unlogged.items())
        _say(screen, f"Not watched, for the log does not hold it: {blind}.", "dim")
    for note in notes_of(found):
        _say(screen, f"Note: {note}.", "yellow")
    _timeline(screen, found.heard.alarms, found.heard.num_alarms)
    _sum_up(screen, found, healthy=healthy, onset=onset)


def _timeline(screen: Console, alarms: list[Alarm], count: int) -> None:
    if not alarms:
        return
    shown = table(
        "step#", "until#", "entry", "incident#", "level", "symptom", "value", "watch", "would have tried first"
    )
    for a in alarms[:_SHOWN]:
        value = "missing" if a.value is None else f"{a.signal} = {a.value:.4g}"
        shown.add_row(
            f"{a.step:g}", "the end" if a.until is None else f"{a.until:g}", a.entry,
            "" if a.incident is None else str(a.incident), coloured(a.level), a.symptom, value, a.watch,
            a.rung if a.incident is not None else "",
        )  # fmt: skip
    screen.print(shown)
    if count > _SHOWN:
        _say(
            screen, f"… and {count - _SHOWN} more; --json has {'all' if count == len(alarms) else len(alarms)}.", "dim"
        )


def _sum_up(screen: Console, found: Replayed, *, healthy: bool, onset: float | None) -> None:
    from premortem.run.replay.verdict import delay, rate

    heard = found.heard
    for name, (times, first, last) in heard.warnings.items():
        _say(screen, f"YELLOW, recorded only: {name}, {times:g} times from step {first:g} to {last:g}.", "dim")
    if not heard.alarms:
        but = f"; {len(found.inconclusive)} watches were inconclusive, which is no health" if found.inconclusive else ""
        screen.print(
            f"[green]Nothing found[/]: nothing RED in {found.walk.num_rows} observations{but}.", soft_wrap=True
        )
    else:
        first_alarm = heard.alarms[0]
        screen.print(
            f"[bold red]Found[/]: incidents {heard.num_incidents}, alarms {heard.num_alarms}; first at step "
            f"{first_alarm.step:g}: {first_alarm.level} {first_alarm.symptom} ({first_alarm.entry}). "
            "Nothing was turned: whether a rung would have helped, only a drill can show.", soft_wrap=True,
        )  # fmt: skip
    if healthy:
        r = rate(heard.num_incidents, found.walk.num_rows)
        screen.print(
            f"Declared healthy: {r.events} false incidents, {r.per_1000:.3g} per 1,000 observations "
            f"(at most {r.at_most:.3g} at 95 %).", soft_wrap=True,
        )  # fmt: skip
    if onset is not None:
        d = delay(found, onset)
        told = "never seen" if d.steps is None else f"seen {d.steps:g} steps later, at step {d.seen:g}, by {d.by}"
        _say(screen, f"Trouble from step {onset:g}: {told}; {d.before} alarms before it.")


def _say(screen: Console, text: str, style: str = "") -> None:
    screen.print(text, style=style or None, markup=False, soft_wrap=True)
