"""The processes of a command: which they are, what memory and time they use, what state they are in. Linux's /proc."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from premortem.stages.process.keeper import descendants, state

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Look:
    """A tree at one moment.

    Attributes:
        num: processes, zombies left out.
        memory: bytes resident; what several processes share is counted once (PSS) where the kernel tells.
        cpu_s: processor seconds of the processes that run now, with those of children that they waited for.
        num_stopped: processes in a stop (SIGSTOP, Ctrl-Z, a tracer).
    """

    num: int
    memory: int
    cpu_s: float
    num_stopped: int

    @property
    def is_stopped(self) -> bool:
        """Whether every process of it is stopped."""
        return self.num > 0 and self.num_stopped == self.num


class Tree:
    """All that descends from ``root``, without the root itself."""

    def __init__(self, root: int) -> None:
        self.root = root

    def pids(self) -> list[int]:
        """The processes that run now, zombies left out."""
        return descendants(self.root)

    def look(self) -> Look:
        """Measure; a process that ends meanwhile counts nothing."""
        pids = self.pids()
        memory = sum(_shared_once(pid) for pid in pids) if len(pids) > 1 else sum(_resident(pid) for pid in pids)
        stopped = sum(state(pid) in ("T", "t") for pid in pids)
        return Look(len(pids), memory, sum(_cpu(pid) for pid in pids), stopped)

    @staticmethod
    def name_of(pid: int) -> str:
        """The name of its program; empty where it is gone."""
        with contextlib.suppress(OSError):
            return Path(f"/proc/{pid}/comm").read_text("utf-8", errors="replace").strip()
        return ""


def environment_of(pid: int) -> dict[str, str] | None:
    """The environment that a process was started with; ``None`` where it is gone or may not be read."""
    try:
        raw = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None
    pairs = (os.fsdecode(entry).partition("=") for entry in raw.split(b"\0") if entry)
    return {name: value for name, _, value in pairs}


def _resident(pid: int) -> int:
    with contextlib.suppress(OSError, IndexError, ValueError):
        return int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) * _PAGE
    return 0


def _shared_once(pid: int) -> int:
    """Its proportional share; what it shares with others by fork would otherwise be counted for each."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return _resident(pid)


def _cpu(pid: int) -> float:
    with contextlib.suppress(OSError, IndexError, ValueError):
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", errors="replace").rpartition(")")[2].split()
        return sum(int(field) for field in fields[11:15]) / _TICKS
    return 0.0
