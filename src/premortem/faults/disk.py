"""Storage that really refuses: a small full file system, a filled one, a limit on the size of a file.

Covered: ENOSPC from a real tmpfs or any file system that can be filled by one file; EFBIG from the kernel.
Not covered: quotas (EDQUOT), full inode tables, slow or read-only disks. After SIGKILL, the mount or the
ballast stays until the next fault of that kind, or `clean_mounts()` / `clean_ballast(folder)`.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import tempfile
import threading
from pathlib import Path
from uuid import uuid4

from premortem.core.errors import ConfigError
from premortem.faults.disturbance import Disturbance
from premortem.faults.fault import Evidence, NotPermitted
from premortem.faults.mounts import mount_tmpfs, tmpfs_mounts, unmount
from premortem.faults.owner import is_orphan, owned_name

_CHUNK = 1 << 20


def clean_mounts() -> list[Path]:
    """Unmount every tmpfs that a killed drill left; returns where they were."""
    cleaned = []
    for mount in tmpfs_mounts():
        if not is_orphan(mount.source, "tmpfs"):
            continue
        try:
            unmount(mount.folder)
            mount.folder.rmdir()
        except OSError:
            # Another drill may clean at the same moment: what counts is that it went.
            if mount in tmpfs_mounts():
                raise
            continue
        cleaned.append(mount.folder)
    return cleaned


def clean_ballast(folder: Path) -> list[Path]:
    """Delete every ballast file that a killed drill left in `folder`; returns their paths."""
    orphans = [path for path in folder.glob(".premortem-ballast-*") if is_orphan(path.name, "ballast")]
    for path in orphans:
        path.unlink(missing_ok=True)
    return orphans


def refusal(folder: Path, size_bytes: int) -> OSError | None:
    """Write `size_bytes` to a new file in `folder`, delete it; returns the error that stopped it."""
    probe = folder / f".premortem-probe-{uuid4().hex}"
    try:
        with probe.open("wb", buffering=0) as stream:
            grow(stream.fileno(), size_bytes)
            os.fsync(stream.fileno())
    except OSError as error:
        return error
    finally:
        probe.unlink(missing_ok=True)
    return None


def grow(descriptor: int, size_bytes: int) -> int:
    """Append zeros; raises the OSError that stops it. Short writes go on until there is one."""
    left = size_bytes
    while left > 0:
        left -= os.write(descriptor, bytes(min(left, _CHUNK)))
    return size_bytes


class FilledDisk(Disturbance):
    """Fills the file system of `folder` until a write really fails, then gives `leave_bytes` back.

    `at_most` bytes of ballast are ever written: filling the machine's own disk by mistake is a ConfigError.
    `leave_bytes` is exact to a block of the file system.
    """

    name = "filled disk"

    def __init__(self, folder: str | os.PathLike[str], leave_bytes: int = 0, at_most: int = 1 << 30) -> None:
        if leave_bytes < 0:
            raise ConfigError(f"filled disk: leave_bytes is {leave_bytes}, expected 0 or more")
        self.folder, self.leave_bytes, self.at_most = Path(folder), leave_bytes, at_most
        self.ballast: Path | None = None
        self._ballast_name = ""
        self._seen = Evidence(None, f"{self.folder}: never entered")

    def _apply(self) -> None:
        clean_ballast(self.folder)
        state = os.statvfs(self.folder)
        free = state.f_bfree * state.f_frsize
        if free > self.at_most:
            raise ConfigError(
                f"filled disk: {self.folder} has {free} bytes free, at_most allows {self.at_most}; name a "
                "small file system such as FullTmpfs, or raise at_most"
            )
        self._ballast_name = f".{owned_name('ballast')}-{uuid4().hex[:8]}"
        self.ballast = self.folder / self._ballast_name
        self._seen = self._fill(self.ballast)

    def _fill(self, ballast: Path) -> Evidence:
        with ballast.open("xb", buffering=0) as stream:
            try:
                # Others may free room meanwhile: twice the allowance is the end in any case.
                grow(stream.fileno(), 2 * self.at_most)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                size = os.fstat(stream.fileno()).st_size
                stream.truncate(max(0, size - self.leave_bytes))
                return Evidence(True, f"{self.folder}: a write failed with ENOSPC after {size} bytes of ballast")
        return Evidence(False, f"{self.folder}: {2 * self.at_most} bytes of ballast were all accepted")

    def _undo(self) -> None:
        if self.ballast is not None:
            self.ballast.unlink(missing_ok=True)
            self.ballast = None

    def observed(self) -> Evidence:
        """Whether a write was really refused with ENOSPC while filling."""
        return self._seen

    def gone(self) -> Evidence:
        """Whether the ballast is away and a write of one block more than was left works again."""
        if not self._ballast_name:
            return Evidence(None, f"{self.folder}: never entered")
        if not self.folder.is_dir():
            return Evidence(True, f"{self.folder}: the folder itself is gone, ballast with it")
        left = self.folder / self._ballast_name
        if left.exists():
            return Evidence(False, f"{left}: ballast of {left.stat().st_size} bytes still there")
        error = refusal(self.folder, self.leave_bytes + 4096)
        if error is None:
            return Evidence(True, f"{self.folder}: ballast away, a write of {self.leave_bytes + 4096} bytes works")
        return Evidence(None, f"{self.folder}: ballast away, yet a write fails, filled by others: {error}")


class FullTmpfs(Disturbance):
    """A real tmpfs of `size_bytes` at `folder`, filled to the last `leave_bytes`; needs CAP_SYS_ADMIN.

    `leave_bytes=None` mounts it empty; `fill(leave_bytes)` then fills it when the drill says so, and `free()`
    gives the room back while it stays mounted.
    """

    name = "full tmpfs"

    def __init__(self, size_bytes: int, leave_bytes: int | None = 0) -> None:
        self.size_bytes, self.leave_bytes = size_bytes, leave_bytes
        self._source = ""
        self._folder: Path | None = None
        self._filler: FilledDisk | None = None

    @property
    def folder(self) -> Path:
        """Where it is mounted. Raises ConfigError before it was entered."""
        if self._folder is None:
            raise ConfigError("full tmpfs: no folder yet; enter the fault first")
        return self._folder

    def _apply(self) -> None:
        clean_mounts()
        self._source, self._filler = owned_name("tmpfs"), None
        self._folder = Path(tempfile.mkdtemp(prefix=self._source + "-"))
        mount_tmpfs(self._source, self._folder, self.size_bytes)
        if self.leave_bytes is not None:
            self.fill(self.leave_bytes)

    def fill(self, leave_bytes: int = 0) -> None:
        """Fill it until a write fails with ENOSPC, then leave `leave_bytes` free."""
        self.free()
        self._filler = FilledDisk(self.folder, leave_bytes, at_most=self.size_bytes + resource.getpagesize())
        self._filler.__enter__()

    def free(self) -> None:
        """Take the ballast away; the file system stays."""
        if self._filler is not None:
            self._filler.remove()

    def _is_mounted(self) -> bool:
        return any(mount.folder == self._folder for mount in tmpfs_mounts())

    def _undo(self) -> None:
        if self._folder is None:
            return
        if self._is_mounted():
            unmount(self._folder)
        if self._folder.exists():
            self._folder.rmdir()
        self.free()  # last: the mount must go even where the ballast cannot be deleted

    def observed(self) -> Evidence:
        """Whether a write to it was really refused with ENOSPC when it was filled."""
        if self._filler is None:
            return Evidence(False if self._folder else None, "full tmpfs: not filled, nothing was refused")
        return self._filler.observed()

    def gone(self) -> Evidence:
        """Whether the kernel's mount table and the folder above know it no more."""
        if self._folder is None:
            return Evidence(None, "full tmpfs: never entered")
        if self._is_mounted():
            return Evidence(False, f"full tmpfs: still mounted at {self._folder}")
        if self._folder.exists():
            return Evidence(False, f"full tmpfs: unmounted, but the folder {self._folder} is still there")
        return Evidence(True, f"full tmpfs: nothing is mounted at {self._folder}, folder removed")


class FileSizeLimit(Disturbance):
    """No file of this process, or of children started meanwhile, may grow beyond `limit_bytes`: EFBIG.

    It hits every file of the process, a ledger included: use it in a process of the workload's own.
    """

    name = "file size limit"

    def __init__(self, limit_bytes: int) -> None:
        if limit_bytes < 0:
            raise ConfigError(f"file size limit: limit_bytes is {limit_bytes}, expected 0 or more")
        self.limit_bytes = limit_bytes
        self._before: int | None = None
        self._handled = False
        self._seen = Evidence(None, "file size limit: never entered")

    def _apply(self) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        if hard != resource.RLIM_INFINITY and self.limit_bytes > hard:
            raise NotPermitted(f"file size limit: {self.limit_bytes} is above the hard limit {hard}; ask for less")
        self._ignore_signal()
        self._before = soft
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit_bytes, hard))
        error = self._refusal_beyond(self.limit_bytes)
        if error is not None and error.errno == errno.EFBIG:
            self._seen = Evidence(True, f"a write beyond {self.limit_bytes} bytes failed with EFBIG")
        else:
            self._seen = Evidence(False, f"a write beyond {self.limit_bytes} bytes gave {error!r}, not EFBIG")

    def _ignore_signal(self) -> None:
        """Python ignores SIGXFSZ from its start; only where someone changed that must it be set."""
        if signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN:
            return
        if threading.current_thread() is not threading.main_thread():
            raise NotPermitted("file size limit: SIGXFSZ would kill the process; enter it in the main thread")
        self._former_handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        self._handled = True

    @staticmethod
    def _refusal_beyond(limit_bytes: int) -> OSError | None:
        with tempfile.TemporaryFile(buffering=0) as stream:
            try:
                os.pwrite(stream.fileno(), b"x", limit_bytes)
            except OSError as error:
                return error
        return None

    def _undo(self) -> None:
        if self._before is not None:
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (self._before, hard))
        if self._handled:
            signal.signal(signal.SIGXFSZ, self._former_handler or signal.SIG_DFL)
            self._handled = False

    def observed(self) -> Evidence:
        """Whether a write beyond the limit was really refused with EFBIG."""
        return self._seen

    def gone(self) -> Evidence:
        """Whether the soft limit is as before and a write beyond `limit_bytes` is no longer refused."""
        if self._before is None:
            return Evidence(None, "file size limit: never entered")
        soft = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        if soft != self._before:
            return Evidence(False, f"file size limit: the soft limit is {soft}, was {self._before}")
        within = self._before == resource.RLIM_INFINITY or self._before > self.limit_bytes
        error = self._refusal_beyond(self.limit_bytes) if within else None
        if error is not None:
            return Evidence(False, f"file size limit: a write beyond {self.limit_bytes} bytes fails: {error}")
        return Evidence(True, f"file size limit: soft limit {soft} as before, a larger write works")
