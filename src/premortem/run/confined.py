"""An arm in a process of its own, inside a memory group that this process owns: what kills it kills nothing else.

The fault in the child limits or fills the group that it finds itself in (`MemoryLimit`, `Leak`); who was killed, and
by whom, is read here, from the child's ending and the group's counter.

Children are forked from a server that has imported all that arms need and done nothing else: importing torch takes
longer than many an arm. The server's pages that a child will write to are made its own before its work begins, so that
they are charged to no fault.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import pickle
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess

from premortem.core.drill import Arm
from premortem.core.errors import BugError, ConfigError
from premortem.faults.fault import NotPermitted
from premortem.faults.group import MemoryGroup
from premortem.machine.ending import Witnesses, ending
from premortem.machine.parent import end_with_parent
from premortem.machine.relief import give_back

PATIENCE_S = 600.0
"""An arm takes seconds; what has not ended by then is wedged. Generous, for machines that do more than this."""
_GOODBYE_S = 30.0
_PRELOADED = ["premortem.run.arms"]


def confined(work: Callable[[], Arm], *, faulted: bool, patience_s: float = PATIENCE_S) -> Arm:
    """Run one arm in a fresh child. Returns its Arm; one without outcome where it was killed, or wedged.

    Raises what the arm raised; ConfigError where the case cannot be handed to another process.
    """
    try:
        packed = pickle.dumps(work)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(f"a confined case: {error}; build, fault and offers must be functions of a module") from error
    began = time.monotonic()
    group = MemoryGroup()
    try:
        with group:
            arm = _in_group(packed, group, patience_s, faulted=faulted)
    except NotPermitted as error:
        return Arm(outcome=math.nan, note=str(error))
    gone = group.gone()
    if not gone.holds:
        arm = replace(arm, fault_gone=gone.holds, note=f"{arm.note}; {gone.detail}")
    return arm if arm.seconds else replace(arm, seconds=time.monotonic() - began)


def _in_group(packed: bytes, group: MemoryGroup, patience_s: float, *, faulted: bool) -> Arm:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)  # does nothing once the server runs
    here, there = context.Pipe()
    child = context.Process(target=_child, args=(there,), name="confined arm")
    child.start()
    there.close()
    try:
        assert child.pid is not None
        group.join(child.pid)
        # the work goes only now, so that all that it takes is charged to the group
        with contextlib.suppress(OSError):
            here.send_bytes(packed)
        answer = _answer(here, patience_s)
        if isinstance(answer, str):
            child.kill()
        # a child that was killed has closed its end; one that answered is let end by itself
        child.join(_GOODBYE_S)
        return _told(child, answer, group, faulted=faulted)
    finally:
        if child.is_alive():
            child.kill()
            child.join()
        here.close()


def _answer(here: Connection, patience_s: float) -> Arm | BaseException | str | None:
    """What the child says; None where it ended without a word; a string where it said nothing in time."""
    try:
        if not here.poll(patience_s):
            return f"wedged: nothing came in {patience_s:g} s, killed"
        found = pickle.loads(here.recv_bytes())
    except (EOFError, OSError):
        return None
    if not isinstance(found, Arm | BaseException):
        raise BugError(f"a confined arm answered {found!r}, expected an Arm")
    return found


def _told(
    child: ForkServerProcess, answer: Arm | BaseException | str | None, group: MemoryGroup, *, faulted: bool
) -> Arm:
    if isinstance(answer, BaseException):
        raise answer
    kills = group.oom_kills
    if isinstance(answer, Arm):
        # a worker of the arm may have been killed where the arm itself ended well
        return replace(answer, fault_observed=True) if faulted and kills else answer
    ended = ending(child.exitcode, Witnesses(0, kills, pid=child.pid)) if answer is None else None
    seen = None if kills is None else kills > 0
    return Arm(
        outcome=math.nan,
        note=str(answer) if ended is None else ended.words,
        # what the kernel did shows in the counter; the limit goes with the group
        fault_observed=seen if faulted else None,
        fault_gone=True if faulted else None,
    )


def _child(there: Connection) -> None:
    """In the fresh process: take the work, do it, answer with its Arm or with what it raised."""
    end_with_parent()
    packed = there.recv_bytes()
    give_back()  # a collection writes to every object: what was shared with the server is charged now, and not later
    work = pickle.loads(packed)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)  # as every arm: comparable, and bit for bit
    answer: Arm | BaseException
    try:
        answer = work()
    except Exception as error:
        error.add_note("raised in a confined arm")
        answer = error
    try:
        packed = pickle.dumps(answer)
    except Exception:
        packed = pickle.dumps(BugError(f"a confined arm raised {answer!r}"))
    there.send_bytes(packed)
    there.close()
