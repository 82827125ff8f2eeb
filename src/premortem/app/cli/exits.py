"""Exit codes: 0 fine, 1 findings or no-go, 2 the user's mistake, 3 the program's own fault, 130 interrupted.

Every error is one line on stderr (a register's mistakes: one line each), never a traceback; with ``--json`` the
same is on stdout as one object.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import typer

from premortem.core.errors import ConfigError, StageError

FINE, FINDINGS, MISTAKE, FAULT, INTERRUPTED = 0, 1, 2, 3, 130

# typer brings its own click, older ones the package: their error classes are found through one that is public
UsageError = typer.BadParameter.__mro__[1]


def own_streams() -> None:
    """A closed stdin, stdout or stderr (``>&-``) is nothing to read and nowhere to write.

    Left closed, the next file that is opened, such as the ledger, would take its number, and output would go into it.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    if sys.stdout is None:  # so the interpreter says that it was closed
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def guarded_exit(act: Callable[[], object], arguments: Sequence[str]) -> int:
    """Run a command; returns the exit code that belongs to what came of it."""
    try:
        result = act()
        sys.stdout.flush()
        if result == INTERRUPTED:  # so click says it when an interrupt reaches it
            raise KeyboardInterrupt
        return result if isinstance(result, int) else FINE
    except ConfigError as error:
        return _say(str(error), MISTAKE, arguments)
    except StageError as error:
        return _say(str(error), FINDINGS, arguments)
    except (KeyboardInterrupt, typer.Abort):
        return _say("interrupted; what was written up to here is kept in the ledger", INTERRUPTED, arguments)
    except SystemExit as left:
        return _left(left, arguments)
    except Exception as error:
        if isinstance(error, UsageError):
            return _say(_usage(error), MISTAKE, arguments)
        return _say(_own_fault(error), FAULT, arguments)


def _left(left: SystemExit, arguments: Sequence[str]) -> int:
    """The reader has gone, as in ``register list | head`` (click and rich say 1); or the run was told to end."""
    if left.code in (None, 0, 1):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FINE
    code = left.code if isinstance(left.code, int) else FAULT
    return _say("told to end; what was written up to here is kept in the ledger", code, arguments)


def _usage(error: Exception) -> str:
    message = str(getattr(error, "format_message", lambda: str(error))())
    context = getattr(error, "ctx", None)
    where = getattr(context, "command_path", "premortem")
    return f"{message.rstrip('.')}; see '{where} --help'" if message else f"see '{where} --help'"


def _own_fault(error: Exception) -> str:
    first = (str(error) or type(error).__name__).splitlines()[0]
    told = f"premortem's own fault: {type(error).__name__}: {first}"
    details = _write_details()
    return f"{told}; details in {details}, please report them" if details else f"{told}; no place for the details"


def _write_details() -> str:
    """The traceback goes to a file: beside the ledger where that is possible, else where temporary files go."""
    name = f"premortem-fault-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.getpid()}.txt"
    for folder in (Path(".premortem"), Path(tempfile.gettempdir())):
        if folder.is_dir():
            with contextlib.suppress(OSError):
                (folder / name).write_text(traceback.format_exc(), "utf-8")
                return str(folder / name)
    return ""


def _say(text: str, code: int, arguments: Sequence[str]) -> int:
    if "--json" in arguments:
        print(json.dumps({"error": text, "exit": code}))
    print(f"premortem: {text}", file=sys.stderr)
    return code
