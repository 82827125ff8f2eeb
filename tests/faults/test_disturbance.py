"""The way in and out: errors, Ctrl-C at every moment, forks, retries."""

import os
import signal
import subprocess
import sys
from typing import Self

import pytest

from premortem.core.errors import ConfigError
from premortem.faults.disturbance import Disturbance, interrupts_held
from premortem.faults.fault import Evidence, Fault, RemovalFailed
from premortem.faults.owner import is_orphan, owned_name


class Planted(Disturbance):
    """A value in a list; the list is the witness."""

    name = "planted"

    def __init__(self, world: list[str], *, failures: int = 0) -> None:
        self.world, self.failures = world, failures

    def _apply(self) -> None:
        self.world.append("fault")

    def _undo(self) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError("busy")
        while "fault" in self.world:
            self.world.remove("fault")

    def observed(self) -> Evidence:
        return Evidence("fault" in self.world, "looked")

    def gone(self) -> Evidence:
        return Evidence("fault" not in self.world, "looked")


def test_a_disturbance_is_a_fault() -> None:
    fault: Fault = Planted([])
    assert fault.name == "planted"


@pytest.mark.parametrize("raised", [ValueError, KeyboardInterrupt, SystemExit])
def test_whatever_the_body_raises_the_fault_goes_and_the_error_stays(raised: type[BaseException]) -> None:
    world: list[str] = []
    with pytest.raises(raised), Planted(world) as fault:  # noqa: PT012
        assert fault.observed().holds
        raise raised
    assert world == []
    assert fault.gone().holds


def test_removing_twice_changes_nothing() -> None:
    world: list[str] = []
    with Planted(world) as fault:
        fault.remove()
        world.append("fault")
        fault.remove()
    assert world == ["fault"]


def test_entering_twice_is_refused_and_the_fault_still_goes() -> None:
    world: list[str] = []
    with Planted(world) as fault, pytest.raises(ConfigError, match="entered twice"):
        fault.__enter__()
    assert world == []


def test_a_removal_that_fails_is_reported_seen_by_gone_and_can_be_retried() -> None:
    world: list[str] = []
    fault = Planted(world, failures=1)
    with pytest.raises(RemovalFailed, match=r"planted: not taken away cleanly: OSError\('busy'\)"), fault:
        pass
    assert fault.gone().holds is False
    fault.remove()
    assert fault.gone().holds


def test_a_removal_that_fails_after_an_error_shows_both() -> None:
    with pytest.raises(RemovalFailed) as caught, Planted([], failures=1):
        raise ValueError("of the body")
    chain: BaseException | None = caught.value
    seen = []
    while chain is not None:
        seen.append(str(chain))
        chain = chain.__context__
    assert seen[1:] == ["busy", "of the body"]


def test_a_removal_that_fails_after_ctrl_c_leaves_it_ctrl_c_with_a_note() -> None:
    with pytest.raises(KeyboardInterrupt) as caught, Planted([], failures=1):
        raise KeyboardInterrupt
    assert any("not taken away" in note for note in caught.value.__notes__)


class Interrupted(Planted):
    """Ctrl-C lands in the middle of putting on, or of taking away."""

    moment = "apply"

    def _apply(self) -> None:
        if self.moment == "apply":
            os.kill(os.getpid(), signal.SIGINT)
        super()._apply()

    def _undo(self) -> None:
        if self.moment == "undo":
            self.moment = "past"
            os.kill(os.getpid(), signal.SIGINT)
        super()._undo()

    def at(self, moment: str) -> Self:
        self.moment = moment
        return self


@pytest.mark.parametrize("moment", ["apply", "undo"])
def test_ctrl_c_while_putting_on_or_taking_away_leaves_nothing(moment: str) -> None:
    world: list[str] = []
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Interrupted(world).at(moment):
        pass
    assert world == []
    assert signal.getsignal(signal.SIGINT) is handler


def test_interrupts_are_held_and_then_delivered() -> None:
    steps = []
    with pytest.raises(KeyboardInterrupt), interrupts_held():  # noqa: PT012
        os.kill(os.getpid(), signal.SIGINT)
        steps.append("after the signal")
    assert steps == ["after the signal"]


CHILD = """
import os, sys
sys.path.insert(0, {here!r})
from test_disturbance import Planted
class OnDisk(Planted):
    def _apply(self): open({path!r}, "w").close()
    def _undo(self): os.unlink({path!r})
fault = OnDisk([])
fault.__enter__()
if {fork}:
    child = os.fork()
    if child == 0:
        fault.remove()
        os._exit(0 if os.path.exists({path!r}) else 1)
    sys.stdout.write(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
"""


@pytest.mark.parametrize("fork", [False, True])
def test_a_forgotten_fault_goes_at_exit_and_a_forked_child_cannot_take_it_away(tmp_path, fork: bool) -> None:
    path = tmp_path / "fault"
    code = CHILD.format(here=os.path.dirname(__file__), path=str(path), fork=fork)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ("0" if fork else "")
    assert not path.exists()


def test_names_of_living_owners_are_no_orphans_and_those_of_dead_ones_are() -> None:
    mine = owned_name("tmpfs")
    assert not is_orphan(mine, "tmpfs")
    started = int(mine.rsplit("-", 1)[1])
    assert is_orphan(f"premortem-tmpfs-{os.getpid()}-{started - 60_000}", "tmpfs"), "a reused pid"
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert is_orphan(f"premortem-tmpfs-{child.pid}-{started}", "tmpfs")
    assert not is_orphan(f"premortem-tmpfs-{child.pid}-{started}", "ballast")
    assert not is_orphan("tmpfs", "tmpfs")
