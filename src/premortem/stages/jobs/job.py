"""One command of a pool: what it is, where it stands, how it ended last."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from premortem.machine.ending import Cause, Ending, Witnesses, ending
from premortem.stages.process.child import Child, Start

_TAIL_BYTES = 8192
_OFFERED = 1000
"""Added to the kernel's score of a job, in thousandths of the limit. Anyone may raise it; few may lower it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A command that can be started again: it goes on from where its own checkpoint stands.

    Attributes:
        name: unique in its pool; its output goes to ``<name>.log``.
        command: program and arguments.
        environment: what it gets beside the environment of the pool.
        holds_model: it serves and waits, and never ends by itself; it may be unloaded when memory runs short.
        is_protected: the kernel shall choose another of the pool when it must kill.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    holds_model: bool = False
    is_protected: bool = False


class State(Enum):
    """Where a job stands."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    GIVEN_UP = "given up"
    UNLOADED = "unloaded"


@dataclass(slots=True)
class Seat:
    """A job and its present run."""

    job: Job
    log: Path
    state: State = State.WAITING
    child: Child | None = None
    restarts: int = 0
    last: Ending | None = None
    signatures: list[str] = field(default_factory=list)

    def start(self, environment: dict[str, str], procs: Path | None, grace_s: float, *, offered: bool) -> None:
        """Start it, its output appended to its log; ``offered``: the kernel takes it first. Raises as `Child`."""
        with self.log.open("ab") as log, Path(os.devnull).open("rb") as nothing:
            streams = (nothing.fileno(), log.fileno(), log.fileno())
            self.child = Child(
                Start(
                    command=self.job.command,
                    environment={**environment, **self.job.environment},
                    grace_s=grace_s,
                    streams=streams,
                    group=procs,
                )
            )
        self.state = State.RUNNING
        if offered and not self.job.is_protected:
            with contextlib.suppress(OSError):
                Path(f"/proc/{self.child.pid}/oom_score_adj").write_text(str(_OFFERED), "ascii")

    @property
    def has_ended(self) -> bool:
        """Whether its present run is over and not yet reaped."""
        return self.child is not None and self.child.status is not None

    def reap(self, kills_before: int | None, kills_after: int | None) -> Ending:
        """How it ended, by the counter of kills before and after; waits until nothing of it is left."""
        assert self.child is not None
        self.last = ending(self.child.wait(), Witnesses(kills_before, kills_after, self.child.pid, self.tail()))
        self._let_go()
        return self.last

    def stop(self) -> None:
        """End its present run in good order; it waits for the next."""
        if self.child is not None:
            self.child.stop()
            self._let_go()
        self.state = State.WAITING

    def tail(self) -> list[str]:
        """The last lines that it wrote."""
        with contextlib.suppress(OSError), self.log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
            return log.read().decode("utf-8", "replace").splitlines()
        return []

    @property
    def has_given_up_for_memory(self) -> bool:
        """Whether it is given up because memory ran out, or because it was killed."""
        killed = (Cause.KILLED_FOR_MEMORY, Cause.OUT_OF_MEMORY, Cause.KILLED_UNKNOWN)
        return self.state is State.GIVEN_UP and self.last is not None and self.last.cause in killed

    def _let_go(self) -> None:
        child, self.child = self.child, None
        if child is not None:
            child.close()
