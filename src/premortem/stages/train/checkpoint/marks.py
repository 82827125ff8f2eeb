"""What others say about a bundle: that it is good, that it is needed, that the run turned away from it.

A mark is a sealed, flushed file beside the bundle, never inside it, so that marking cannot harm what it marks.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from premortem.core.errors import StageError
from premortem.stages.train.checkpoint.disk import sync_folder, write_file
from premortem.stages.train.checkpoint.lock import temporary_name
from premortem.stages.train.checkpoint.manifest import Bundle
from premortem.stages.train.checkpoint.sealed import read_sealed, seal


@dataclass(frozen=True, slots=True)
class Mark:
    """One statement about one bundle, tied to the bundle's random id.

    ``kind`` is ``good``, ``protected`` or ``abandoned``; ``by`` is who protects or why abandoned; ``baseline`` is
    the healthy level of each signal when a bundle was marked good; ``marked_at`` in Unix seconds.
    """

    kind: str
    bundle: str
    step: int
    timeline: int
    by: str
    baseline: dict[str, float]
    marked_at: float


def mark_path(bundle: Bundle, kind: str, by: str = "") -> Path:
    """Where the mark lies; each protector has a file of its own."""
    owner = f"-{hashlib.sha256(by.encode()).hexdigest()[:16]}" if kind == "protected" else ""
    return bundle.path.with_name(f"{bundle.name}.{kind}{owner}.json")


def write_mark(bundle: Bundle, mark: Mark) -> None:
    """Write or replace the mark in one stroke. Raises ``OSError``."""
    path = mark_path(bundle, mark.kind, mark.by)
    temporary = path.with_name(temporary_name(path.name))
    try:
        write_file(temporary, seal(mark))
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def read_mark(bundle: Bundle, kind: str) -> Mark | None:
    """The good or abandoned mark, ``None`` when there is none.

    Raises:
        StageError: when the file is there but was changed or speaks of another bundle.
    """
    path = mark_path(bundle, kind)
    if not os.path.lexists(path):
        return None
    mark = read_sealed(path, Mark)
    if (mark.kind, mark.step, mark.timeline) != (kind, bundle.step, bundle.timeline):
        raise StageError(
            f"{path}: speaks of step {mark.step} ({mark.kind}), expected step {bundle.step} ({kind}); "
            "it was renamed or copied: mark the bundle again"
        )
    return mark


def marks_of(bundle: Bundle, kind: str = "") -> list[Path]:
    """Every mark file of the bundle, whether it can be read or not. Raises ``OSError``."""
    return sorted(bundle.path.parent.glob(f"{bundle.name}.{kind}*.json"))
