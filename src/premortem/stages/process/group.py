"""A control group of the command's own: its memory limit is really kept by the kernel, and nobody else pays for it.

cgroup version 1 (a child of the group that this process is in, so limits above still hold) and version 2 (a sibling:
a group with processes of its own hands no controller on). What the kernel kills there is counted, which tells a kill
for memory from a ``kill -9`` by a person.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from premortem.core.errors import StageError
from premortem.machine.cgroup import Cgroup, cgroup_of

_NAME = "premortem-supervise-"
_REMOVE_S = 2.0


class LimitNotPermitted(StageError):  # noqa: N818 - the word that a report uses
    """The machine or the user's rights do not allow a control group of one's own."""


class LimitedGroup:
    """A group in which ``limit`` bytes are allowed; use as a context manager.

    Raises:
        LimitNotPermitted: no memory controller here, or no right to make a group.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        own = cgroup_of()
        if own is None:
            raise LimitNotPermitted("this machine offers no memory controller to this process (cgroup v1 or v2)")
        above = own.folder if own.version == 1 or own.folder == own.mount else own.folder.parent
        _sweep(above)
        self.group = Cgroup(above / f"{_NAME}{os.getpid()}-{time.monotonic_ns()}", own.mount, own.version)
        try:
            self.group.folder.mkdir()
            self.group.file("limit").write_text(str(limit), "ascii")
        except OSError as error:
            self.close()
            raise LimitNotPermitted(
                f"no control group can be made in {above} ({error.strerror or error}): run as root, or under "
                "`systemd-run --user --scope -p Delegate=yes`"
            ) from None
        swap = ("memory.memsw.limit_in_bytes", limit) if own.version == 1 else ("memory.swap.max", 0)
        with contextlib.suppress(OSError):  # without swap accounting there is no such file
            (self.group.folder / swap[0]).write_text(str(swap[1]), "ascii")

    @property
    def procs(self) -> Path:
        """The file that a process writes itself into."""
        return self.group.folder / "cgroup.procs"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the group; a process that still ends in it is waited for, for two seconds."""
        until = time.monotonic() + _REMOVE_S
        while self.group.folder.exists():
            try:
                self.group.folder.rmdir()
            except OSError:
                if time.monotonic() > until:
                    return  # the next supervisor sweeps it away
                time.sleep(0.02)


def _sweep(above: Path) -> None:
    """Remove what a killed supervisor left; a group that still has processes cannot be removed."""
    for folder in above.glob(f"{_NAME}*"):
        pid = folder.name.removeprefix(_NAME).partition("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            with contextlib.suppress(OSError):
                folder.rmdir()
