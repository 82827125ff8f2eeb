"""Where the ledger lives. The only place that reads its environment variable."""

from __future__ import annotations

import os
from pathlib import Path

from premortem.core.errors import ConfigError

VARIABLE = "PREMORTEM_LEDGER"
DEFAULT = Path(".premortem") / "ledger.db"


def ledger_path(path: str | Path | None = None) -> Path:
    """The path itself, else ``$PREMORTEM_LEDGER``, else the default here; of a folder, the default in it.

    Raises:
        ConfigError: the place names another kind of database (``postgresql://…``), which is not built yet.

    >>> ledger_path("runs/a.db").as_posix()
    'runs/a.db'
    """
    said = path if path is not None else os.environ.get(VARIABLE) or DEFAULT
    if "://" in str(said):
        raise ConfigError(
            f"ledger at {str(said)!r}: only a file path is supported (SQLite); "
            f"give a path such as {DEFAULT.as_posix()} in --ledger or {VARIABLE}"
        )
    place = Path(said)
    if not place.is_dir():
        return place
    beside = place / DEFAULT.name  # a checkpoint folder keeps its ledger beside the bundles
    return beside if beside.exists() else place / DEFAULT
