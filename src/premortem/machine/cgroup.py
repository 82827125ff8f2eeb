"""The memory control group of a process, version 1 or 2: what it uses, what it may, whom the kernel killed in it.

Covered: Linux; both versions, hybrid machines, containers whose own group is mounted as the root.
Not covered: `memory.high` of version 2, which slows and does not kill; swap limits. A version 1 group counts only
its own processes where `use_hierarchy` is off: its ancestors' limits are then left out.
Source: kernel documentation, admin-guide/cgroup-v1/memory.rst and admin-guide/cgroup-v2.rst; what is called working
set here is what Kubernetes evicts by.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from premortem.machine.files import field, read_bytes, read_number
from premortem.machine.pressure import Pressure, pressure

NAMES = {
    1: {"usage": "memory.usage_in_bytes", "limit": "memory.limit_in_bytes", "peak": "memory.max_usage_in_bytes",
        "events": "memory.oom_control", "inactive": "total_inactive_file"},
    2: {"usage": "memory.current", "limit": "memory.max", "peak": "memory.peak",
        "events": "memory.events", "inactive": "inactive_file"},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cgroup:
    """One group. `mount` is where its controller is mounted; numbers are bytes, None where unknown."""

    folder: Path
    mount: Path
    version: int

    def file(self, what: str) -> Path:
        """`usage`, `limit`, `peak` or `events` by this version's name."""
        return self.folder / NAMES[self.version][what]

    @property
    def name(self) -> str:
        """Its path below the mount, `/` for the top one."""
        below = self.folder.relative_to(self.mount).as_posix()
        return "/" if below == "." else f"/{below}"

    @property
    def usage(self) -> int | None:
        """All that is charged, page cache too."""
        return read_number(self.file("usage"))

    @property
    def working_set(self) -> int | None:
        """Usage without the page cache that was not used lately: what the kernel cannot simply give up."""
        usage, inactive = self.usage, field(read_bytes(self.folder / "memory.stat"), self.inactive_key)
        return usage if usage is None or inactive is None else max(0, usage - inactive)

    @property
    def inactive_key(self) -> bytes:
        """What `memory.stat` calls the cache that may go, with the space after it."""
        return NAMES[self.version]["inactive"].encode() + b" "

    @property
    def limit(self) -> int | None:
        """Its own limit; None where it has none."""
        return read_number(self.file("limit"))

    @property
    def peak(self) -> int | None:
        """The most that was ever charged to it."""
        return read_number(self.file("peak"))

    @property
    def oom_kills(self) -> int | None:
        """How many of its processes the kernel has killed for memory since it was made."""
        return field(read_bytes(self.file("events")), b"oom_kill ")

    @property
    def pressure(self) -> Pressure | None:
        """How long its tasks waited for memory; version 2 alone tells."""
        return pressure(self.folder / "memory.pressure")

    @property
    def line(self) -> tuple[Cgroup, ...]:
        """Itself and every ancestor whose limit holds for it too, itself first."""
        found, folder = [self], self.folder
        while folder != self.mount:
            folder = folder.parent
            if self.version == 1 and read_bytes(folder / "memory.use_hierarchy") == b"0\n":
                break
            found.append(Cgroup(folder, self.mount, self.version))
        return tuple(found)

    @property
    def tightest(self) -> tuple[int, Cgroup] | None:
        """The limit that leaves least, with the group that sets it; None where nothing limits."""
        best: tuple[int, int, Cgroup] | None = None
        for group in self.line:
            limit, used = group.limit, group.working_set
            if limit is not None and (best is None or limit - (used or 0) < best[0]):
                best = (limit - (used or 0), limit, group)
        return None if best is None else best[1:]


def cgroup_of(pid: int | str = "self", proc: Path = Path("/proc")) -> Cgroup | None:
    """The group that counts the memory of a process; None where there is no such controller or process."""
    lines = (read_bytes(proc / str(pid) / "cgroup") or b"").decode("utf-8", "surrogateescape").splitlines()
    paths = {controller: path for line in lines if line.count(":") >= 2
             for _, controllers, path in [line.split(":", 2)] for controller in controllers.split(",")}  # fmt: skip
    for version, controller in ((1, "memory"), (2, "")):
        if controller in paths:
            for mount, root in _mounts(version, proc):
                group = Cgroup(_inside(mount, root, paths[controller]), mount, version)
                if version == 1 or _counts_memory(group):
                    return group
    return None


def _counts_memory(group: Cgroup) -> bool:
    """A version 2 group below which the controller is on; the top one has no usage of its own, and no limit."""
    controllers = read_bytes(group.folder / "cgroup.controllers")
    return controllers is not None and b"memory" in controllers.split()


def _mounts(version: int, proc: Path) -> list[tuple[Path, str]]:
    """Where the controller is mounted, and which group is the top of that mount."""
    table = (read_bytes(proc / "self" / "mountinfo") or b"").decode("utf-8", "surrogateescape")
    found = []
    for line in table.splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if len(fields) < 5 or len(kind) < 2:
            continue
        options = right.rsplit(" ", 1)[-1].split(",")
        if kind[0] == "cgroup2" if version == 2 else kind[0] == "cgroup" and "memory" in options:
            found.append((Path(fields[4]), fields[3]))
    return found


def _inside(mount: Path, root: str, path: str) -> Path:
    """The group's folder: its path below the mount's top; the mount itself where a container shows only that."""
    try:
        folder = mount / PurePosixPath(path).relative_to(root)
    except ValueError:
        return mount
    return folder if ".." not in folder.parts and folder.is_dir() else mount
