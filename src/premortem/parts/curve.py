"""A loss curve on disk: what a healthy run looked like, for later runs of the same recipe."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from premortem.core.errors import ConfigError
from premortem.parts.detectors import curve_of

Curve = tuple[tuple[float, float], ...]


def write_curve(path: Path, losses: Sequence[float]) -> None:
    """Summarise per-step losses and write them whole or not at all; raises ``ConfigError`` for an empty run."""
    text = json.dumps({"format": "premortem/curve-1", "points": curve_of(losses)})
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text, "utf-8")
    beside.replace(path)


def read_curve(path: str | Path) -> Curve:
    """(step, loss) points; raises ``ConfigError`` for a file that is missing or is no curve."""
    try:
        document = json.loads(Path(path).read_text("utf-8"))
        return tuple((float(step), float(loss)) for step, loss in document["points"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: found no loss curve ({type(error).__name__}: {error}), expected a file written by "
            "run.keep_curve(path); record a healthy run first"
        ) from error
