"""Files of a bundle that others than we wrote (torch.distributed.checkpoint's shards), held by size and hash."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from premortem.core.errors import StageError
from premortem.stages.train.checkpoint.disk import forget_cache, open_regular

FILE_NAME = re.compile(r"\.metadata|__\d+_\d+\.distcp")
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One whole file; ``size`` in bytes, ``sha256`` (FIPS 180-4) over all of them."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Beside:
    """Files that others write into a bundle while it is saved: ``nbytes`` expected of all, ``write`` into a folder."""

    nbytes: int
    write: Callable[[Path], tuple[FileRecord, ...]]


def record_of(path: Path, *, from_disk: bool = False) -> FileRecord:
    """Size and hash of a file as it is now.

    Raises:
        StageError: when it cannot be read.
    """
    digest, size = hashlib.sha256(), 0
    try:
        descriptor = open_regular(path)
        with os.fdopen(descriptor, "rb") as file:
            if from_disk:
                forget_cache(descriptor)
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
    except OSError as error:
        raise StageError(
            f"{path}: cannot be read ({error.strerror}), expected a bundle's file; use another bundle"
        ) from error
    return FileRecord(path.name, size, digest.hexdigest())


def check_files(folder: Path, files: Iterable[FileRecord], *, from_disk: bool = False) -> None:
    """Every byte of every file against its record. Raises ``StageError``."""
    for expected in files:
        found = record_of(folder / expected.name, from_disk=from_disk)
        if found.size != expected.size:
            raise StageError(
                f"{folder / expected.name}: {found.size} bytes, expected {expected.size}; cut or grown: "
                "use another bundle"
            )
        if found != expected:
            raise StageError(
                f"{folder / expected.name}: does not match its hash, expected {expected.sha256[:12]}…; "
                "its bytes were changed: use another bundle"
            )
