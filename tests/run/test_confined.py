"""Arms in processes of their own: what really kills them is told, and kills nothing else."""

from __future__ import annotations

import math
import os
import time
from functools import partial
from pathlib import Path

import pytest

from premortem.core.drill import Arm
from premortem.core.errors import BugError, ConfigError, StageError
from premortem.faults.group import group_refusal
from premortem.faults.memory import MemoryLimit
from premortem.machine.cgroup import cgroup_of
from premortem.run.confined import confined

MIB = 1 << 20


@pytest.fixture
def grouped() -> bool:
    """Whether groups can be made; where not, the arm says so in one line."""
    if not group_refusal():
        return True
    arm = confined(partial(ends, 1.0), faulted=True)
    assert math.isnan(arm.outcome)
    assert "memory group" in arm.note
    return False


def ends(outcome: float) -> Arm:
    group = cgroup_of()
    return Arm(outcome=outcome, note=f"{os.getpid()} {group.folder.name if group else ''}", digest="d")


def takes(size: int, limit: int) -> Arm:
    with MemoryLimit(limit):
        held = bytearray(b"x") * size
    return Arm(outcome=float(len(held)))


def hangs() -> Arm:
    time.sleep(600)
    return Arm(outcome=0.0)


def fails() -> Arm:
    raise StageError("a stage broke")


class Unpicklable(Exception):  # noqa: N818 - a test's own
    def __reduce__(self) -> str:
        raise TypeError


def fails_badly() -> Arm:
    raise Unpicklable


def leaves() -> Arm:
    os._exit(3)


def test_an_arm_runs_in_its_own_process_and_group(grouped: bool) -> None:
    if not grouped:
        return
    arm = confined(partial(ends, 2.5), faulted=False)
    pid, folder = arm.note.split()
    assert (arm.outcome, arm.digest) == (2.5, "d")
    assert int(pid) != os.getpid()
    assert folder.startswith("premortem-memory-")
    assert not list(Path("/sys/fs/cgroup").glob(f"**/{folder}"))
    assert arm.seconds > 0


def test_an_arm_that_the_kernel_kills_has_no_outcome_and_says_why(grouped: bool) -> None:
    if not grouped:
        return
    arm = confined(partial(takes, 200 * MIB, 64 * MIB), faulted=True)
    assert math.isnan(arm.outcome)
    assert arm.note == "killed by the kernel for memory, exit 137"
    assert (arm.fault_observed, arm.fault_gone) == (True, True)
    assert confined(partial(takes, 20 * MIB, 64 * MIB), faulted=True).outcome == 20 * MIB


def test_a_wedged_arm_is_ended_and_said(grouped: bool) -> None:
    if not grouped:
        return
    arm = confined(hangs, faulted=True, patience_s=0.5)
    assert math.isnan(arm.outcome)
    assert "wedged" in arm.note
    assert arm.fault_observed is False, "nobody was killed for memory"


def test_what_an_arm_raises_is_raised_here(grouped: bool) -> None:
    if not grouped:
        return
    with pytest.raises(StageError, match="a stage broke"):
        confined(fails, faulted=False)
    with pytest.raises(BugError, match="Unpicklable"):
        confined(fails_badly, faulted=False)
    arm = confined(leaves, faulted=False)
    assert math.isnan(arm.outcome)
    assert arm.note == "ended by itself with an error, exit 3"
    assert arm.fault_observed is None


def test_a_case_that_cannot_travel_is_refused() -> None:
    with pytest.raises(ConfigError, match="functions of a module"):
        confined(lambda: Arm(outcome=0.0), faulted=False)
