"""What a tracker looks like to the sender. Its library is imported in the sender's process alone.

Three errors tell the sender what to do: go on trying, stop trying, or leave one record out.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from typing import Protocol, cast

from premortem.core.errors import ConfigError, StageError
from premortem.stages.tracking.folder import OFFLINE, Folder, RunInfo
from premortem.stages.tracking.record import Logged

NAMES = ("mlflow", "tensorboard", "wandb")
MOST = 1000
"""Records in one send, at most."""

_ENVIRONMENT = {
    # the sender retries by itself, and a hanging server must not hold a worker for 7 × 120 s
    "mlflow": {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
        "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    },
    "wandb": {"WANDB_SILENT": "true", "WANDB_CONSOLE": "off", "WANDB_ERROR_REPORTING": "false"},
}
"""Read by the clients when they are imported; what the user has set stands."""


class Unreachable(StageError):  # noqa: N818 - said of a tracker
    """Nobody answers, or not usefully: what was sent is uncertain, and trying again may help."""


class Refused(ConfigError):  # noqa: N818 - said of a tracker
    """Wrong credentials or no right: no retry mends it, a person must."""


class Invalid(StageError):  # noqa: N818 - said of records
    """The tracker answers, and will never take these records."""


class Backend(Protocol):
    """One tracker, for one run. Every method but ``close`` may raise the three errors of this module."""

    def open(self, run: RunInfo, saved: Mapping[str, str | int]) -> int | None:
        """Make the run or find it again, as often as it takes: one run.

        Returns:
            The sequence number up to which all records are surely there; ``None`` when only a look at single
            records can tell, which ``send`` then takes when it is told that they are doubtful.
        """

    def send(self, records: Sequence[Logged], *, doubtful: bool) -> None:
        """Hand over records, in order; those that are doubtful may be there already, wholly or in part."""

    def confirmed(self) -> int:
        """The sequence number up to which all that was sent is surely there."""

    def saved(self) -> dict[str, str | int]:
        """What to find again at the next ``open``."""

    def finish(self, how: str) -> None:
        """Say that the run ended; all records are confirmed by then."""

    def close(self) -> None:
        """Let go."""


def make(sink: str, folder: Folder, where: str) -> Backend:
    """The backend of a sink: ``wandb``, or ``wandb-offline``, which writes into the spool's folder.

    Raises:
        ConfigError: an unknown tracker, or one whose library is not installed.
    """
    name = sink.removesuffix(OFFLINE)
    require_known(name)
    for key, value in _ENVIRONMENT.get(name, {}).items():
        os.environ.setdefault(key, value)
    try:
        module = importlib.import_module(f"{__name__}.{name}")
    except ImportError as error:
        raise ConfigError(f"{name}: cannot be imported ({error}); pip install 'premortem[trackers]'") from None
    place = folder.offline if sink.endswith(OFFLINE) else None
    return cast(Backend, module.make(where, place, folder.path))


def require_known(name: str) -> None:
    """Raise ``ConfigError`` for a tracker that is none of :data:`NAMES`."""
    if name not in NAMES:
        import difflib

        close = difflib.get_close_matches(name, NAMES, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"tracker: found the unknown backend {name!r}, expected one of {', '.join(NAMES)}{hint}")
