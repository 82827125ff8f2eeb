"""Room and rights where checkpoints and evidence will go: really written, really read back, taken away again."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from premortem.core.errors import ConfigError, StageError
from premortem.core.evidence import Record
from premortem.ledger.ledger import Ledger
from premortem.ledger.location import ledger_path
from premortem.run.preflight.row import GB, Asked, Row

FACTOR = 1.5
"""Free space over the need of a phase (AF-I.2)."""
FLOOR_GB = 2.0
"""Below this old checkpoints are deleted in a run (AF-I.2): nobody should begin there."""
_PROBE = 1 << 20
_LEAST_FILES = 1000


def rows(asked: Asked) -> Iterable[Row]:
    """Free space and files, the checkpoint folder, the ledger."""
    if asked.need_gb is not None and not 0.0 < asked.need_gb < float("inf"):
        raise ConfigError(f"--need-gb: found {asked.need_gb}, expected a positive number of GiB")
    folder = existing(asked.folder)
    yield _space(folder, asked.need_gb)
    if asked.need_gb is None:
        yield Row("need of the next phase", "not asked", "no figure was given", "", "--need-gb GIB")
    yield _files(folder)
    yield written(asked.folder, f"checkpoint folder {asked.folder}")
    yield _ledger(ledger_path(asked.ledger))


def existing(path: Path) -> Path:
    """The folder, or the nearest one above it that is there: it will be made inside that one."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def _space(folder: Path, need_gb: float | None) -> Row:
    least = FLOOR_GB if need_gb is None else max(FLOOR_GB, FACTOR * need_gb)
    why = f"at least {least:.2f} GiB" + ("" if need_gb is None else f": {FACTOR} × {need_gb:g}, and never under 2")
    try:
        free = shutil.disk_usage(folder).free / GB
    except OSError as error:
        return Row(f"free space at {folder}", "unknown", f"{error.strerror}", why, "name another folder")
    enough = free >= least
    return Row(f"free space at {folder}", "ok" if enough else "not ok", f"{free:.2f} GiB free", why,
               "" if enough else "free some, or save elsewhere (--folder)")  # fmt: skip


def _files(folder: Path) -> Row:
    """A file system may have room and still take no file more; some count none and say 0 of 0."""
    what, expected = f"free files at {folder}", f"at least {_LEAST_FILES}"
    try:
        found = os.statvfs(folder)
    except OSError as error:
        return Row(what, "unknown", f"{error.strerror}", expected, "name another folder")
    if not found.f_files:
        return Row(what, "ok", "the file system does not limit them", expected)
    enough = found.f_favail >= _LEAST_FILES
    return Row(what, "ok" if enough else "not ok", f"{found.f_favail}", expected, "" if enough else "delete files")


def written(wanted: Path, what: str) -> Row:
    """A folder is really written, or the one in which it will be made; what was written is taken away again."""
    folder, expected = existing(wanted), "1 MiB written, flushed, renamed, read back, deleted"
    if not folder.is_dir():
        return Row(what, "not ok", f"{folder} is a file", expected, "name a folder (--folder)")
    content = os.urandom(_PROBE)
    try:
        with tempfile.TemporaryDirectory(prefix=".premortem-check-", dir=folder) as place:
            file = Path(place) / "probe"
            with file.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            sure = file.replace(Path(place) / "renamed").read_bytes() == content
    except OSError as error:
        return Row(what, "not ok", f"{error.strerror or error}", expected, "grant the right, or name another folder")
    if not sure:
        return Row(what, "not ok", "what was read back is not what was written", expected, "do not trust this disk")
    return Row(
        what, "ok", "done" if folder == wanted.absolute() else f"done in {folder}, where it will be made", expected
    )


def _ledger(place: Path) -> Row:
    """A ledger of its own beside the real one: locks and flushes of SQLite are tried, and no evidence is touched."""
    what, expected = f"ledger {place}", "a record written, committed and found again"
    folder = existing(place.parent)
    try:
        with tempfile.TemporaryDirectory(prefix=".premortem-check-", dir=folder) as probe:
            ledger = Ledger.open(Path(probe) / "ledger.db", run="check")
            try:
                receipt = ledger.append(Record("run", "", None, 0, 0.0, {"what": "check"}))
                sure = receipt.committed and ledger.contains(receipt)
                fault = ledger.health().fault
            finally:
                ledger.close()
    except (OSError, StageError) as error:
        told = (error.strerror if isinstance(error, OSError) else "") or str(error)
        return Row(what, "not ok", told, expected, "grant the right, or name another place (--ledger)")
    if not sure:
        return Row(what, "not ok", f"not committed: {fault}", expected, "name another place (--ledger)")
    if place.exists() and not os.access(place, os.W_OK):
        return Row(what, "not ok", "the ledger that is there may not be written", expected, "grant the right")
    return Row(what, "ok", "done", expected)
