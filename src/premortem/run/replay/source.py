"""Opens a log of any known kind: what it is shows in its content."""

from __future__ import annotations

import gzip
import io
import itertools
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

from premortem.core.errors import ConfigError
from premortem.run.replay.events import MARK, event_files, events
from premortem.run.replay.log import Log
from premortem.run.replay.records import Records, json_lines, listed
from premortem.run.replay.sheet import Sheet

_EXPECTED = "a CSV or JSON-lines log (.gz too), TensorBoard event files or their folder, or a trainer_state.json"
_PEEK = 4096
_STATE = "trainer_state.json"


@contextmanager
def opened(path: Path, only: tuple[str, str] | None = None) -> Iterator[Log]:
    """The log, open while the block runs.

    Raises:
        ConfigError: nothing there, no right, empty, binary, or of no known kind.
    """
    if path.is_dir():
        found = _in_folder(path)
        if isinstance(found, list):
            yield _of_events(found, only)
            return
        path = found
    if MARK in path.name and path.is_file():
        yield _of_events([path], only)
        return
    try:
        with path.open("rb") as raw, ExitStack() as stack:
            yield _of_text(_text(raw, path, stack), path, only)
    except (OSError, EOFError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        why = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{path}: cannot be read ({why}), expected {_EXPECTED}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: found byte 0x{error.object[error.start]:02x}, expected text in UTF-8") from None


def _in_folder(folder: Path) -> list[Path] | Path:
    if (folder / _STATE).is_file():
        return folder / _STATE
    found = event_files(folder)
    if found:
        return found
    raise ConfigError(f"{folder}: found a folder without event files and without {_STATE}, expected one of them")


def _of_events(files: list[Path], only: tuple[str, str] | None) -> Log:
    notes: list[str] = []
    log = Records(events(files, notes), "TensorBoard", only, notes=notes)
    if not log.head:
        raise ConfigError(f"{files[0]}: found no scalar in it, expected the scalars of a training run")
    return log


def _text(raw: io.BufferedReader, path: Path, stack: ExitStack) -> TextIO:
    """The log as text, unpacked where it is packed."""
    binary = raw
    if raw.peek(2)[:2] == b"\x1f\x8b":
        binary = stack.enter_context(io.BufferedReader(stack.enter_context(gzip.GzipFile(fileobj=raw))))
    start = binary.peek(_PEEK)[:_PEEK]
    if not start:
        raise ConfigError(f"{path}: found an empty file, expected {_EXPECTED}")
    if b"\0" in start:
        raise ConfigError(f"{path}: found binary data, expected {_EXPECTED}")
    return stack.enter_context(io.TextIOWrapper(binary, "utf-8-sig", newline=""))


def _of_text(stream: TextIO, path: Path, only: tuple[str, str] | None) -> Log:
    """The first line tells; it is read again by whoever reads the log."""
    first = stream.readline()
    lines = itertools.chain([first], stream)
    begins = first.lstrip()[:1]
    return _of_json(lines, first, path, only) if begins in ("{", "[") else Sheet(lines, str(path), only)


def _of_json(lines: Iterator[str], first: str, path: Path, only: tuple[str, str] | None) -> Log:
    """One object a line, or one document: an object with a ``log_history``, or a list of objects."""
    text = first.strip()
    is_lines = text.startswith("{") and text.endswith("}") and '"log_history"' not in text
    if is_lines or {".jsonl", ".ndjson"} & {*path.suffixes}:
        notes: list[str] = []
        log = Records(json_lines(lines, str(path), notes), "JSON lines", only, notes=notes)
    else:
        log = _of_document(lines, path, only)
    if not log.head:
        told = "" if only is None else f" with {only[0]}={only[1]}"
        raise ConfigError(f"{path}: found no record{told}, expected one JSON object an observation")
    return log


def _of_document(lines: Iterator[str], path: Path, only: tuple[str, str] | None) -> Records:
    try:
        document = json.loads("".join(lines))
    except ValueError as error:
        line = getattr(error, "lineno", "?")
        raise ConfigError(f"{path}: line {line}: {str(error).splitlines()[0]}, expected JSON; mend the file") from None
    if isinstance(document, list):
        return Records(listed(document, str(path), "$"), "JSON", only)
    history = document.get("log_history") if isinstance(document, dict) else None
    if not isinstance(history, list):
        raise ConfigError(f"{path}: found a JSON object without a log_history, expected {_EXPECTED}")
    return Records(listed(history, str(path), "$.log_history"), "trainer state", only)
