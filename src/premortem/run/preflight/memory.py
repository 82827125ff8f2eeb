"""Room for the run on the host: limits of the group and of the process, swap, and how long tasks wait already."""

from __future__ import annotations

import os
from collections.abc import Iterable

import psutil

from premortem.core.errors import ConfigError
from premortem.machine.cgroup import cgroup_of
from premortem.machine.memory import limits
from premortem.machine.pressure import Pressure, pressure
from premortem.run.preflight.row import GB, Asked, Row

SHARE = 0.9
"""Of the room; the rest is for what nobody predicted."""
LEAST_GB = 1.0
"""Without a figure of the user's: less is no room for a training run of any size."""
_CALM = 0.10
"""Share of the last minute in which some task waited for memory; above it the machine is short already."""


def rows(asked: Asked) -> Iterable[Row]:
    """The tightest limit against the need, then what makes memory uncertain."""
    need = asked.memory_gb
    if need is not None and not 0.0 < need < float("inf"):
        raise ConfigError(f"--memory-gb: found {need}, expected a positive number of GiB")
    on_host = not asked.device.startswith("cuda")
    yield _room(need if on_host else None)
    if need is None:
        yield Row("predicted need of the run", "not asked", "no figure was given", "", "--memory-gb GIB")
    yield _kills()
    yield _swap()
    yield _pressure()


def _room(need_gb: float | None) -> Row:
    """Room is asked for what a process may still take: whatever limits it first."""
    least = LEAST_GB if need_gb is None else need_gb / SHARE
    expected = f"at least {least:.2f} GiB" + (
        "" if need_gb is None else f": {need_gb:g} within {SHARE:.0%} of the room"
    )
    known = limits()
    if not known:
        return Row("room on the host", "unknown", "no limit and no free memory could be read", expected)
    left, by = known[0].left / GB, known[0].by
    enough = left >= least
    do = "" if enough else "smaller batch, accumulation or checkpointing; or raise the limit"
    return Row("room on the host", "ok" if enough else "not ok", f"{left:.2f} GiB, limited by {by}", expected, do)


def _kills() -> Row:
    """A group in which the kernel has killed before will see it again."""
    group = cgroup_of()
    what, expected = "kills for memory in this group", "none since it was made"
    if group is None:
        return Row(what, "not asked", "this machine has no memory group")
    if group.oom_kills is None:
        return Row(what, "not asked", f"the group {group.name} does not count them")
    do = "find out what was killed: `dmesg`, or the exit code 137 of a run" if group.oom_kills else ""
    return Row(what, "not ok" if group.oom_kills else "ok", f"{group.oom_kills} in {group.name}", expected, do)


def _swap() -> Row:
    """A run that swaps is slower than one that ends: swap in use now is a sign, swap that is there is none."""
    what, expected = "swap in use", "less than 10 % of it, or none on the machine"
    try:
        swap = psutil.swap_memory()
    except (psutil.Error, OSError, RuntimeError) as error:
        return Row(what, "unknown", str(error), expected)
    if not swap.total:
        return Row(what, "ok", "the machine has none: what does not fit is killed, not slowed", expected)
    busy = swap.used / swap.total >= 0.1
    found = f"{swap.used / GB:.2f} of {swap.total / GB:.2f} GiB"
    return Row(what, "not ok" if busy else "ok", found, expected, "end what holds it, or wait" if busy else "")


def _pressure() -> Row:
    what, expected = "memory pressure", f"tasks waited less than {_CALM:.0%} of the last minute"
    group = cgroup_of()
    found: Pressure | None = (None if group is None else group.pressure) or pressure()
    if found is None:
        return Row(what, "not asked", f"the kernel of this {os.uname().sysname} machine does not tell")
    calm = found.some_60s < _CALM
    told = f"{found.some_60s:.1%} of the last minute"
    return Row(what, "ok" if calm else "not ok", told, expected, "" if calm else "end what else runs, or wait")
