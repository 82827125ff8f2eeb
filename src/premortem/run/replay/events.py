"""TensorBoard event files, read by TensorBoard's own reader, a record at a time."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from premortem.core.errors import ConfigError
from premortem.run.replay.records import Record

MARK = "tfevents"


def event_files(folder: Path) -> list[Path]:
    """Event files of one run, oldest first: a restart writes a new one. Empty where there are none.

    Raises:
        ConfigError: event files in several folders: which run is meant?
    """
    here = sorted(p for p in folder.iterdir() if p.is_file() and MARK in p.name)
    if here:
        return here
    below = sorted({p.parent for p in folder.rglob(f"*{MARK}*") if p.is_file()})
    if len(below) > 1:
        shown = ", ".join(str(p) for p in below[:5]) + (" …" if len(below) > 5 else "")
        raise ConfigError(f"{folder}: found event files of {len(below)} runs ({shown}), expected one; name one folder")
    return sorted(p for p in below[0].iterdir() if p.is_file() and MARK in p.name) if below else []


def events(files: list[Path], notes: list[str]) -> Iterator[Record]:
    """Scalars as ``{tag: value, "step": …, "wall_time": …}``.

    Raises:
        ConfigError: TensorBoard is not installed; a file that is no event file.
    """
    try:
        from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
    except ImportError:
        raise ConfigError(
            f"{files[0]}: is an event file, and the package that reads it is missing; pip install premortem[trackers]"
        ) from None
    for file in files:
        count = 0
        loader = LegacyEventFileLoader(str(file))
        try:
            for event in loader.Load():
                count += 1
                found = {v.tag: value for v in event.summary.value if (value := _scalar(v)) is not None}
                if found:
                    yield f"{file}: event {count}", {**found, "step": event.step, "wall_time": event.wall_time}
        except Exception as error:  # its reader raises what it likes for a broken file
            raise ConfigError(
                f"{file}: event {count + 1} cannot be read ({type(error).__name__}: {str(error)[:80]}), expected a "
                "TensorBoard event file"
            ) from None
        if not count:
            if file.stat().st_size:
                raise ConfigError(f"{file}: found no event in {file.stat().st_size} bytes, expected an event file")
            notes.append(f"{file.name} is empty")


def _scalar(value: Any) -> float | None:
    """A scalar summary's value, old or new; ``None`` for images, histograms and texts."""
    kind = value.WhichOneof("value")
    if kind == "simple_value":
        return float(value.simple_value)
    if kind != "tensor" or len(value.tensor.tensor_shape.dim) != 0:
        return None
    tensor = value.tensor
    for held in (tensor.float_val, tensor.double_val):
        if len(held) == 1:
            return float(held[0])
    form = {4: "<f", 8: "<d"}.get(len(tensor.tensor_content)) if tensor.dtype in (1, 2) else None
    return float(struct.unpack(form, tensor.tensor_content)[0]) if form else None
