"""A pool of jobs as a workload: kind ``jobs``; a tick is one look at the pool."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from premortem.core.action import Control, Override, OverrideStack, Owner, Setting
from premortem.core.signal import Signal
from premortem.stages.jobs.job import State
from premortem.stages.jobs.pool import JobPool
from premortem.stages.process.settings import VARIABLE, settings

SIGNALS: tuple[Signal, ...] = (
    Signal("killed", "jobs", help="jobs that were killed for memory since the last look"),
    Signal("given_up", "jobs", help="jobs that are no longer started again, because memory ran out"),
    Signal("memory_share", "×", help="use over the tightest limit on the group, or over the machine's memory"),
    Signal("running", "jobs", help="jobs that run now"),
    Signal("waiting", "jobs", help="jobs that wait for a slot"),
    Signal("done", "jobs", higher_is_worse=False, help="jobs that came to their end"),
    Signal("failed", "jobs", help="jobs that are given up for an error of their own"),
    Signal("slots", "jobs", help="jobs that may run at once; a fraction is rounded down"),
    Signal("accumulate", "×", help="the factor on forward passes a step that jobs are started with"),
    Signal("models", "", help="processes that hold a model now"),
)


class Slots:
    """How many run at once; a share is rounded down, one always may."""

    def __init__(self, pool: JobPool) -> None:
        self._pool, self._stack = pool, OverrideStack(pool.slots)

    def turn(self, owner: Owner, override: Override) -> None:
        """From now on; those beyond end in good order and wait."""
        self._act(self._stack.put(owner, override))

    def undo(self, owner: Owner) -> None:
        """More may run again."""
        self._act(self._stack.remove(owner))

    def read(self) -> Setting:
        """The setting, where no more than that run; else how many do."""
        asked, work = float(self._stack.effective), len(self._pool.working)
        acts = self._pool.slots == asked and work <= self._pool.at_once
        return asked if acts else max(float(work), self._pool.slots)

    def _act(self, value: Setting) -> None:
        self._pool.run_at_most(float(value))


class Accumulate:
    """The factor by which a job's batch is split; the effective batch stays what it was."""

    def __init__(self, pool: JobPool) -> None:
        self._pool, self._stack = pool, OverrideStack(1.0)

    def turn(self, owner: Owner, override: Override) -> None:
        """Working jobs end in good order and start again with it."""
        self._act(self._stack.put(owner, override))

    def undo(self, owner: Owner) -> None:
        """As it was before."""
        self._act(self._stack.remove(owner))

    def read(self) -> Setting:
        """What a job that starts now reads."""
        return float(settings({VARIABLE: str(self._pool.settings_file)}).accumulate)

    def _act(self, value: Setting) -> None:
        times = max(1, int(float(value)))
        if times != self._pool.settings.accumulate:
            self._pool.hand_down(replace(self._pool.settings, accumulate=times, micro_batch=1.0 / times))


class Request:
    """Done once, and kept with its number until the next; read from what came of it."""

    def __init__(self, base: str, act: Callable[[], None], holds: Callable[[], bool]) -> None:
        self._base, self._act, self._holds = base, act, holds
        self._asked = base

    def turn(self, owner: Owner, override: Override) -> None:
        """Do it."""
        self._act()
        self._asked = str(override.by)

    def undo(self, owner: Owner) -> None:
        """It cannot be taken back."""

    def read(self) -> Setting:
        """The request, where its effect is there; the base where it is not."""
        return self._asked if self._holds() else self._base


class JobsWorkload:
    """Signals and controls of one pool."""

    kind = "jobs"

    def __init__(self, pool: JobPool) -> None:
        self._pool = pool
        self.signals = SIGNALS
        self.controls: Mapping[str, Control] = {
            "slots": Slots(pool),
            "accumulate": Accumulate(pool),
            "idle_models": Request("as they are", pool.unload_idle, lambda: pool.models_held == 0),
            "placement": Request("as it is", pool.one_after_another_on_the_cpu, lambda: self._is_serial()),
        }
        self.witnesses: Mapping[str, str] = {"slots": "slots", "accumulate": "accumulate"}
        self.conditions: Mapping[str, Callable[[], bool | None]] = {}

    def look(self) -> list[float | None]:
        """One step of the pool and its observation row, in slot order."""
        pool = self._pool
        killed = pool.step()
        lost = sum(seat.has_given_up_for_memory for seat in pool.seats)
        return [
            float(killed),
            float(lost),
            pool.memory_share,
            float(len(pool.working)),
            float(pool.count(State.WAITING)),
            float(pool.count(State.DONE)),
            float(pool.count(State.GIVEN_UP) - lost),
            pool.slots,
            float(pool.settings.accumulate),
            float(pool.models_held),
        ]

    def _is_serial(self) -> bool:
        return self._pool.is_serial and len(self._pool.working) <= 1 and self._pool.settings.device == "cpu"
