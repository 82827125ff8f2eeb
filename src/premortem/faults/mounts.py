"""Mounting and unmounting a tmpfs through the C library, and what the kernel says is mounted. Linux only."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from premortem.faults.fault import NotPermitted

_MNT_DETACH = 2
_MS_NOSUID_NODEV_NOEXEC = 2 | 4 | 8


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of the kernel's mount table."""

    source: str
    folder: Path


def tmpfs_mounts() -> list[Mount]:
    """Every tmpfs of this mount namespace, from /proc/self/mountinfo; none where there is no such table."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        left, right = line.split(" - ", 1)
        kind, source = right.split()[:2]
        if kind == "tmpfs":
            found.append(Mount(_unescaped(source), Path(_unescaped(left.split()[4]))))
    return found


def _unescaped(field: str) -> str:
    for code, sign in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, sign)
    return field


def mount_tmpfs(source: str, folder: Path, size_bytes: int) -> None:
    """Mount a tmpfs of `size_bytes` at `folder`. Raises NotPermitted where the system refuses."""
    if not sys.platform.startswith("linux"):
        raise NotPermitted(f"full tmpfs: found {sys.platform}, expected Linux; run this drill there")
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"size={size_bytes},mode=0700".encode()
    flags = ctypes.c_ulong(_MS_NOSUID_NODEV_NOEXEC)
    if libc.mount(source.encode(), os.fsencode(folder), b"tmpfs", flags, options) == 0:
        return
    number = ctypes.get_errno()
    if number in (errno.EPERM, errno.EACCES):
        raise NotPermitted(
            f"full tmpfs: mounting at {folder} was refused ({os.strerror(number)}) for user {os.geteuid()}; "
            "run the drill as root or with CAP_SYS_ADMIN"
        )
    raise OSError(number, os.strerror(number), str(folder))


def unmount(folder: Path) -> None:
    """Unmount; where files are still open there, detach: its memory is freed when they close."""
    libc = ctypes.CDLL(None, use_errno=True)
    for flags in (0, _MNT_DETACH):
        if libc.umount2(os.fsencode(folder), flags) == 0:
            return
        number = ctypes.get_errno()
        if number != errno.EBUSY:
            break
    raise OSError(number, os.strerror(number), str(folder))
