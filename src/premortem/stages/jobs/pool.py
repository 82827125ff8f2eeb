"""Runs commands, so many at once, in one memory group; starts what was killed again, up to a cap.

Covered: any command that goes on from its own checkpoint when it is started again. Settings are handed down by
environment and file (`stages/process/settings.py`) and act at a job's next start. Not covered: jobs on other
machines, and jobs whose memory is a device's (their own guard watches that).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from premortem.core.errors import ConfigError
from premortem.machine.cgroup import Cgroup
from premortem.machine.ending import Cause, Ending
from premortem.machine.memory import available
from premortem.stages.jobs.job import Job, Seat, State
from premortem.stages.process.settings import VARIABLE, Settings, write_settings

_SAME_ERROR = 2
_UNCLAIMED = 20
"""Steps: a killed job is seen to have ended a moment after the kernel has counted it."""
_KILLED = (Cause.KILLED_FOR_MEMORY, Cause.KILLED, Cause.KILLED_UNKNOWN, Cause.OUT_OF_MEMORY, Cause.SIGNAL)


class JobPool:
    """Jobs and how many may run at once; driven by :meth:`step`, and closed at the end.

    Args:
        jobs: with unique names.
        folder: takes a log for each job and the settings handed down.
        slots: jobs that run at once; one that holds a model takes none.
        group: the memory group that they run in; the machine's memory limits them where there is none.
        restarts: how often a killed job is started again under the same settings before it is given up.
        grace_s: seconds between SIGTERM and SIGKILL.
    """

    def __init__(
        self, jobs: Sequence[Job], folder: Path, *, slots: int, group: Cgroup | None = None, restarts: int = 3,
        grace_s: float = 5.0,
    ) -> None:  # fmt: skip
        names = [job.name for job in jobs]
        if len(set(names)) != len(names) or slots < 1 or not names:
            raise ConfigError(f"jobs: found {names} and {slots} slots, expected unique names and at least 1 of each")
        folder.mkdir(parents=True, exist_ok=True)
        self.seats = tuple(Seat(job, folder / f"{job.name}.log") for job in jobs)
        self.group, self.restarts = group, restarts
        self.slots = float(slots)
        self.is_serial = False
        self.settings_file = folder / "settings.json"
        self.settings = Settings()
        self.kills = 0
        self._some_protected = any(job.is_protected for job in jobs)
        self._grace_s = grace_s
        self._claimed = self._seen = None if group is None else group.oom_kills
        self._unchanged = 0
        write_settings(self.settings_file, self.settings)

    # --- the loop ----------------------------------------------------------------------------

    def step(self) -> int:
        """See who has ended, start who may; returns how many were killed for memory since the last step."""
        ended = [seat for seat in self.running if seat.has_ended]
        now = self._counted()
        killed = 0
        for seat in ended:
            how = seat.reap(self._claimed, now)
            if how.for_memory or how.cause is Cause.KILLED_UNKNOWN:
                killed += 1
                self._claimed = min(self._claimed + 1, now) if self._claimed is not None and now is not None else None
            self._settle(seat, how)
        self.kills += killed
        self._fill()
        return killed

    def _counted(self) -> int | None:
        """The group's counter. A kill that no job of the pool claims for a while was one of its workers."""
        now = None if self.group is None else self.group.oom_kills
        self._unchanged = self._unchanged + 1 if now == self._seen else 0
        self._seen = now
        if self._unchanged > _UNCLAIMED:
            self._claimed = now
        return now

    def _settle(self, seat: Seat, how: Ending) -> None:
        """Done, to be started again, or given up: after the cap, or when the same error came twice in a row."""
        if how.cause is Cause.FINISHED:
            seat.state = State.UNLOADED if seat.job.holds_model else State.DONE
            return
        is_same = seat.signatures[-1:] == [how.signature]
        seat.signatures.append(how.signature)
        seat.restarts += 1
        repeats = how.cause not in _KILLED and is_same and seat.restarts >= _SAME_ERROR
        seat.state = State.GIVEN_UP if seat.restarts > self.restarts or repeats else State.WAITING

    def _fill(self) -> None:
        for seat in self.seats:
            if seat.state is State.WAITING and (seat.job.holds_model or len(self.working) < self.at_once):
                procs = None if self.group is None else self.group.folder / "cgroup.procs"
                seat.start(self.environment(), procs, self._grace_s, offered=self._some_protected)

    def environment(self) -> dict[str, str]:
        """What a job starts with: this process's own, and what is handed down."""
        given = {**os.environ, VARIABLE: str(self.settings_file)}
        if self.settings.device == "cpu":
            given["CUDA_VISIBLE_DEVICES"] = ""
        return given

    # --- what can be told --------------------------------------------------------------------

    @property
    def at_once(self) -> int:
        """Jobs that may run at once now."""
        return 1 if self.is_serial else max(1, int(self.slots))

    def run_at_most(self, slots: float) -> None:
        """From now on so many at once, rounded down, one at least; the newest of the others end in good order."""
        self.slots = slots
        for seat in self.working[self.at_once :]:
            seat.stop()
        self._give_new_tries()

    def hand_down(self, settings: Settings) -> None:
        """Other settings, in force at the next start: jobs that work end in good order and start again."""
        self.settings = settings
        write_settings(self.settings_file, settings)
        for seat in self.working:
            seat.stop()
        self._give_new_tries()

    def unload_idle(self) -> None:
        """End, in good order, what holds a model and works on nothing."""
        for seat in self.seats:
            if seat.job.holds_model:
                seat.stop()
                seat.state = State.UNLOADED
        self._give_new_tries()

    def one_after_another_on_the_cpu(self) -> None:
        """The last resort: slow, and it comes to its end."""
        self.is_serial = True
        self.hand_down(replace(self.settings, device="cpu"))

    def _give_new_tries(self) -> None:
        """Under other conditions each job has its tries anew, those that were given up for memory too."""
        for seat in self.seats:
            if seat.has_given_up_for_memory:
                seat.state = State.WAITING
            seat.restarts = 0

    # --- what can be seen --------------------------------------------------------------------

    @property
    def running(self) -> list[Seat]:
        """All that run, oldest first."""
        return [seat for seat in self.seats if seat.state is State.RUNNING]

    @property
    def working(self) -> list[Seat]:
        """Those of them that take a slot."""
        return [seat for seat in self.running if not seat.job.holds_model]

    def count(self, state: State) -> int:
        """Jobs in a state, those that hold models left out."""
        return sum(seat.state is state for seat in self.seats if not seat.job.holds_model)

    @property
    def models_held(self) -> int:
        """Processes that hold a model now."""
        return sum(seat.job.holds_model for seat in self.running)

    @property
    def is_over(self) -> bool:
        """Whether every job is done or given up."""
        return self.count(State.DONE) + self.count(State.GIVEN_UP) == sum(not s.job.holds_model for s in self.seats)

    @property
    def memory_share(self) -> float | None:
        """Use over the tightest limit of the group, or over the machine's memory; None is unknown."""
        if self.group is not None and (found := self.group.tightest) is not None:
            limit, by = found
            used = by.working_set
            return None if used is None else used / limit
        free = available()
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return None if free is None else 1.0 - free / total

    def close(self) -> None:
        """End all that runs, in good order."""
        for seat in self.running:
            seat.stop()
