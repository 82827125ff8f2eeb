"""One run, one folder: a lock that dies with its owner, and temporary names that say who writes them.

The kernel's record lock decides (it goes with the process, by ``kill -9`` too, and a forked data worker does not
inherit it); the file's text, host, process id and start time, is for the message and for file systems whose
locks do nothing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil

from premortem.core.errors import ConfigError
from premortem.stages.train.checkpoint.disk import disk_errors, write_all

LOCK = ".lock"
_TEMPORARY = re.compile(r"\.(?:tmp|trash)-.+-(\d+)-(\d+)-[0-9a-f]{8}")

# A record lock does not exclude a second opener in its own process, and its file must not be opened twice there:
# closing either descriptor would drop the lock. Keyed by (process, device, inode), for a fork copies this set.
_held: set[tuple[int, int, int]] = set()


@dataclass(frozen=True, slots=True)
class Owner:
    """A process, told from a later one with the same number by its start (Unix milliseconds)."""

    host: str
    pid: int
    started: int

    @classmethod
    def me(cls) -> Owner:
        """This process."""
        return cls(socket.gethostname(), os.getpid(), _started(os.getpid()))

    @property
    def lives(self) -> bool:
        """Whether it still runs; processes of other hosts cannot be asked and count as gone."""
        return self.host == socket.gethostname() and _started(self.pid) == self.started


def _started(pid: int) -> int:
    """When the process started, in Unix milliseconds; -1 when there is none (or only its unreaped exit code)."""
    try:
        process = psutil.Process(pid)
        return -1 if process.status() == psutil.STATUS_ZOMBIE else int(process.create_time() * 1000)
    except psutil.Error:
        return -1


def temporary_name(name: str, kind: str = "tmp") -> str:
    """A hidden name that no reader takes for a bundle and that names its writer."""
    me = Owner.me()
    return f".{kind}-{name}-{me.pid}-{me.started}-{uuid.uuid4().hex[:8]}"


def leftovers(folder: Path) -> list[Path]:
    """Temporary names in the folder whose writer is gone. Raises ``OSError``."""
    found = []
    for path in folder.iterdir():
        match = _TEMPORARY.fullmatch(path.name)
        if match is not None and not Owner(socket.gethostname(), int(match[1]), int(match[2])).lives:
            found.append(path)
    return sorted(found)


class FolderLock:
    """Holds a folder for this process until :meth:`release` or the process ends.

    Raises:
        ConfigError: when a living run holds the folder.
        StageError: when the lock file cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._descriptor = -1
        with disk_errors("locking", folder):
            folder.mkdir(parents=True, exist_ok=True)
            path, facts = folder / LOCK, folder.stat()
            self._key = (os.getpid(), facts.st_dev, facts.st_ino)
            if self._key in _held:
                raise ConfigError(f"{folder}: this process holds it already, expected one shelf; use or close that one")
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                _take(descriptor, folder)
            except BaseException:
                os.close(descriptor)
                raise
        self._descriptor = descriptor
        _held.add(self._key)

    def release(self) -> None:
        """Give the folder back; a second call does nothing, nor does one in a forked child."""
        if self._descriptor < 0 or self._key[0] != os.getpid():
            return
        os.truncate(self._descriptor, 0)
        os.close(self._descriptor)
        self._descriptor = -1
        _held.discard(self._key)


def _take(descriptor: int, folder: Path) -> None:
    owner = _owner(descriptor)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            raise
        raise _busy(folder, owner) from error
    me = Owner.me()
    if owner is not None and owner != me and owner.lives:
        raise _busy(folder, owner)
    os.truncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    write_all(descriptor, msgspec.json.encode(me))
    os.fsync(descriptor)


def _owner(descriptor: int) -> Owner | None:
    """Who says that it holds the lock; ``None`` for an empty or torn text, left by a clean or a killed owner."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    try:
        return msgspec.json.decode(os.read(descriptor, 4096), type=Owner)
    except msgspec.DecodeError:
        return None


def _busy(folder: Path, owner: Owner | None) -> ConfigError:
    who = "another run" if owner is None else f"process {owner.pid} on {owner.host}"
    return ConfigError(f"{folder}: {who} is using it, expected one run a folder; end that run or choose another folder")
