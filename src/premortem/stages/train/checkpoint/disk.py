"""Writing that survives a power cut, and errors of the disk said in one line."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from premortem.core.errors import StageError
from premortem.stages.train.checkpoint.tensors import Bytes

# A file system at its brim slows down and starves its other users; BLOOM's log saw some "full" at 80 %.
MARGIN_SHARE = 0.05
MARGIN_BYTES = 1 << 20
MARGIN_INODES = 16

_ADVICE = {
    errno.ENOSPC: "free space or prune the shelf",
    errno.EDQUOT: "free space under the quota or raise it",
    errno.EFBIG: "raise the file size limit (ulimit -f)",
    errno.EROFS: "mount it writable or choose another folder",
    errno.EACCES: "give write permission or choose another folder",
    errno.EPERM: "give write permission or choose another folder",
}


@contextmanager
def disk_errors(doing: str, folder: Path) -> Iterator[None]:
    """Turn any ``OSError`` into a :class:`StageError` of one line that says what, where, why and what to do."""
    try:
        yield
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, "OSError")
        place = f" at {error.filename}" if error.filename else ""
        advice = _ADVICE.get(error.errno or 0, "check the path and the disk")
        raise StageError(
            f"{doing} in {folder} failed: {error.strerror or error} ({name}){place}; "
            f"existing bundles are untouched; {advice}"
        ) from error


def check_room(folder: Path, nbytes: int, files: int) -> None:
    """Refuse to start what the disk cannot hold: ``nbytes`` + 5 % + 1 MiB, and ``files`` + 16 inodes.

    Raises:
        StageError: when bytes or inodes are short.
        OSError: when the folder cannot be asked.
    """
    facts = os.statvfs(folder)
    free, needed = facts.f_bavail * facts.f_frsize, int(nbytes * (1 + MARGIN_SHARE)) + MARGIN_BYTES
    if free < needed:
        raise StageError(
            f"{folder}: {free} bytes free, expected {needed} for a bundle of {nbytes} with its margin (ENOSPC); "
            "existing bundles are untouched; free space or prune the shelf"
        )
    # File systems without a fixed table (btrfs) report none at all.
    if facts.f_files and facts.f_favail < files + MARGIN_INODES:
        raise StageError(
            f"{folder}: {facts.f_favail} inodes free, expected {files + MARGIN_INODES} (ENOSPC); "
            "existing bundles are untouched; delete small files on this disk"
        )


def write_all(descriptor: int, data: bytes | Bytes) -> None:
    """Write every byte. Raises ``OSError``."""
    view = memoryview(data) if isinstance(data, bytes) else data.data
    while len(view):
        view = view[os.write(descriptor, view) :]


def sync_folder(folder: Path) -> None:
    """Make the folder's names durable. Raises ``OSError``."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: Path, data: bytes) -> None:
    """Create a file that must not exist yet, flushed to the disk. Raises ``OSError``."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_regular(path: Path) -> int:
    """Open an ordinary file for reading: no link, no device.

    Raises:
        OSError: when it is missing or a link.
        StageError: when it is no ordinary file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise StageError(f"{path}: found no ordinary file, expected a file of a bundle; use another bundle")
    return descriptor


def forget_cache(descriptor: int) -> None:
    """Ask the kernel to drop its copy, so that the next read comes from the device (a hint: tmpfs ignores it)."""
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def remove_tree(path: Path) -> None:
    """Delete a folder of ours as far as the disk lets us; what stays is never loadable and is swept later."""
    shutil.rmtree(path, ignore_errors=True)
