"""Writing a file whole or not at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from premortem.core.errors import ConfigError


def write_whole(path: Path, text: str, what: str) -> Path:
    """Text, as UTF-8; see :func:`write_bytes`."""
    return write_bytes(path, text.encode("utf-8"), what)


def write_bytes(path: Path, content: bytes, what: str) -> Path:
    """Write beside it, then rename: a full disk leaves the old file as it was.

    Raises:
        ConfigError: the place is full, read-only or no place for a file.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise ConfigError(
            f"{what}: {path} cannot be written ({error.strerror}), expected a writable place with free space; "
            "name another"
        ) from None
    return path
