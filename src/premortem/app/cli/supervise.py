"""``premortem supervise -- CMD``: guards any command, with no change to it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from premortem.app.cli.printing import Json, LedgerPath, emit

if TYPE_CHECKING:
    from collections.abc import Callable

    from premortem.core.evidence import Record
    from premortem.run.supervise.options import LimitBy, Options
    from premortem.run.supervise.summary import Summary

_SHOWN = frozenset({"opened", "intent", "recovered", "handed_over", "guard_fault", "relapse"})


def supervise(  # noqa: PLR0913 - the options of a command
    command: Annotated[list[str] | None, typer.Argument(metavar="-- CMD...", help="The command, unchanged.")] = None,
    *,
    memory_limit: Annotated[str | None, typer.Option(help="For the whole tree: 600M, 1.5G, 80%.")] = None,
    limit_by: Annotated[str, typer.Option(help="auto, group (kept by the kernel, or refuse), watching.")] = "auto",
    restarts: Annotated[int, typer.Option(help="Starts beyond the first, at most.")] = 10,
    same_crashes: Annotated[int, typer.Option(min=1, help="Equal crashes without progress that are a loop.")] = 3,
    heartbeat: Annotated[str | None, typer.Option(help="Silence after which something is done: 10m.")] = None,
    heartbeat_file: Annotated[Path | None, typer.Option(help="Its change is the sign of life.")] = None,
    watch_disk: Annotated[Path, typer.Option(help="A folder on the file system to watch.")] = Path(),
    disk_free: Annotated[str, typer.Option(help="Below this the command is paused.")] = "256M",
    grace: Annotated[str, typer.Option(help="Between SIGTERM and SIGKILL.")] = "10s",
    backoff: Annotated[str, typer.Option(help="Before the second restart; doubles without progress.")] = "1s",
    every: Annotated[str, typer.Option(help="Between two looks.")] = "250ms",
    progress: Annotated[str | None, typer.Option(help="Pattern with a group around the step number.")] = None,
    progress_file: Annotated[list[Path] | None, typer.Option(help="A file whose change is progress.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML: what a restart may change of your own.")] = None,
    register: Annotated[str, typer.Option(help="A register: a YAML file, or the name of a built-in.")] = "supervise",
    summary: Annotated[Path | None, typer.Option(help="Write the summary as JSON to this file.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the report of a bad end.")] = False,
    ledger: LedgerPath = None,
    as_json: Json = False,
) -> None:
    """Guard a command: memory, silence, disk, crashes; start it again by the ladder, and never for ever.

    Exit code: the command's own; 125 where it was given up. With --json its output goes to stderr.
    """
    from premortem.run.supervise.options import Options, hands_of, read_config, read_pattern, read_share_or_size
    from premortem.stages.process.progress import STEPS
    from premortem.stages.process.sizes import parse_seconds, parse_size

    found = read_config(config) if config is not None else None
    pattern = progress if progress is not None else found.progress if found is not None else None
    options = Options(
        memory_limit=None if memory_limit is None else read_share_or_size(memory_limit, _total(), "--memory-limit"),
        limit_by=_limit_by(limit_by), restarts=restarts, same_crashes=same_crashes,
        heartbeat_s=None if heartbeat is None else parse_seconds(heartbeat, "--heartbeat"),
        heartbeat_file=heartbeat_file, watch_disk=watch_disk, disk_free=parse_size(disk_free, "--disk-free"),
        grace_s=parse_seconds(grace, "--grace"), backoff_s=parse_seconds(backoff, "--backoff"),
        every_s=parse_seconds(every, "--every"), progress_files=tuple(progress_file or ()),
        progress=STEPS if pattern is None else read_pattern(pattern, "--progress"),
        hands={} if found is None or config is None else hands_of(found, config.parent),
        params={} if found is None else found.params,
    )  # fmt: skip
    if summary is not None:
        _try_to_write(summary)
    result = _go(tuple(command or ()), options, register, ledger, quiet=quiet, as_json=as_json)
    if summary is not None:
        _write(summary, result)
    if as_json:
        emit(result.to_json())
    else:
        for line in result.lines() if not quiet or result.exit_code else []:
            _say(line)
    raise typer.Exit(result.exit_code)


def _go(command: tuple[str, ...], options: Options, register: str, ledger: Path | None, *,
        quiet: bool, as_json: bool) -> Summary:  # fmt: skip
    from premortem.core.errors import ConfigError, StageError
    from premortem.ledger.ledger import Ledger
    from premortem.ledger.location import ledger_path
    from premortem.run.supervise.loop import Ground, Supervisor, run_name

    place = ledger_path(ledger)
    run = run_name(command) if command else ""
    try:
        opened = Ledger.open(place, run=run)
    except StageError as error:  # nothing has run: an exit code of 1 would be taken for the command's
        raise ConfigError(str(error)) from None
    try:
        say: Callable[[str], None] = (lambda text: None) if quiet else _say
        ground = Ground(ledger=opened, place=place, say=say, register=register, stdout=2 if as_json else 1)
        return Supervisor(command, options, ground).go(None if quiet else _tell)
    finally:
        opened.close()


def _tell(record: Record) -> None:
    """What a person at the console must know, in one line each."""
    from premortem.run.words import in_words

    words = in_words(record)
    if words and record.event in _SHOWN and record.data.get("verb") in (None, "turn", "undo"):
        _say(words)


def _say(text: str) -> None:
    print(f"premortem: {text}", file=sys.stderr, flush=True)


def _limit_by(text: str) -> LimitBy:
    from typing import get_args

    from premortem.core.errors import ConfigError
    from premortem.run.supervise.options import LimitBy

    for known in get_args(LimitBy):
        if text == known:
            return known  # type: ignore[no-any-return]
    raise ConfigError(f"--limit-by: found {text!r}, expected one of {', '.join(get_args(LimitBy))}")


def _total() -> int:
    import psutil

    return int(psutil.virtual_memory().total)


def _try_to_write(path: Path) -> None:
    """Before the command runs: hours later is too late to hear of a folder that is not there."""
    from premortem.core.errors import ConfigError

    is_new = not path.exists()
    try:
        path.open("ab").close()
        if is_new:
            path.unlink()
    except OSError as error:
        raise ConfigError(f"--summary: {path} cannot be written ({error.strerror}); nothing was started: "
                          "name a file in a folder that exists and is writable") from None  # fmt: skip


def _write(path: Path, result: Summary) -> None:
    from premortem.core.errors import ConfigError

    try:
        path.write_text(json.dumps(result.to_json(), indent=1) + "\n", "utf-8")
    except OSError as error:
        raise ConfigError(f"--summary: {path} cannot be written ({error.strerror}); the command ended "
                          f"with {result.exit_code}") from None  # fmt: skip
