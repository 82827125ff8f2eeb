"""Settings that a program is started with: environment, premortem's own file, and edits of the user's own files.

They act at the next start, never on a program that runs. ``premortem.settings()`` reads premortem's own file in a
program that wants to; the environment reaches programs that know nothing of premortem.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

VARIABLE = "PREMORTEM_SETTINGS"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a supervisor asks of a training program; the defaults ask for nothing.

    Attributes:
        micro_batch: factor on the examples of one forward pass.
        accumulate: factor on the forward passes of one optimiser step; with ``micro_batch`` 1/n it is n, so that
            the effective batch stays as it was.
        recompute: give up activations and compute them again in the backward pass.
        precision: ``""`` as it is, else ``bf16``.
        device: ``""`` as it is, else ``cpu``.
        offline: use nothing from the network.
        workers: processes that load data, at most; -1 leaves them as they are.
    """

    micro_batch: float = 1.0
    accumulate: int = 1
    recompute: bool = False
    precision: str = ""
    device: str = ""
    offline: bool = False
    workers: int = -1


def settings(environment: Mapping[str, str] | None = None) -> Settings:
    """What the supervisor handed down to this program; the defaults where there is none, or no readable file.

    >>> settings({}).accumulate
    1
    """
    path = (os.environ if environment is None else environment).get(VARIABLE)
    if not path:
        return Settings()
    try:
        found = dict(json.loads(Path(path).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return Settings()
    none = asdict(Settings())
    given = {name: value for name, value in found.items() if name in none and type(value) is type(none[name])}
    return replace(Settings(), **given)


def write_settings(path: Path, given: Settings) -> None:
    """Replace the file in one step: a reader finds the old settings or the new ones, never half of them."""
    text = json.dumps(asdict(given), indent=1)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(path)
