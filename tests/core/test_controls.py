"""Two controls for workloads of one's own: a held setting, and a request that is carried out once."""

from __future__ import annotations

from pathlib import Path

import pytest

from premortem.core.action import Override, Owner
from premortem.parts.controls import NOTHING, HeldSetting, OneShotRequest

ONE, TWO = Owner(1, "halve it"), Owner(2, "cap it")


def test_two_owners_never_restore_each_others_leftovers() -> None:
    applied: list[object] = []
    control = HeldSetting(8.0, applied.append)
    control.turn(ONE, Override("scale", 0.5))
    control.turn(TWO, Override("cap", 3.0))
    control.undo(ONE)
    assert control.read() == 3.0
    control.undo(TWO)
    control.undo(TWO)
    assert (control.read(), applied) == (8.0, [4.0, 3.0, 3.0, 8.0, 8.0])


def test_it_is_read_where_it_acts() -> None:
    world = {"mode": "live"}
    control = HeldSetting("live", lambda value: None, lambda: world["mode"])
    control.turn(ONE, Override("choose", "cached"))
    assert control.read() == "live"  # the world did not follow, and the kernel is to see that


def test_what_could_not_be_applied_is_not_read_as_applied() -> None:
    def refuse(value: object) -> None:
        raise OSError("read-only")

    control = HeldSetting("live", refuse)
    with pytest.raises(OSError, match="read-only"):
        control.turn(ONE, Override("choose", "cached"))
    assert control.read() == "live"


def test_a_request_shows_only_by_its_evidence_and_each_try_is_another() -> None:
    done: list[str] = []
    control = OneShotRequest(done.append, lambda: len(done) % 2 == 1)
    control.turn(ONE, Override("choose", "last good #1.1"))
    assert (control.read(), done) == ("last good #1.1", ["last good"])
    control.turn(ONE, Override("choose", "last good #1.2"))
    assert control.read() == NOTHING


def test_a_request_may_be_answered_in_another_process(tmp_path: Path) -> None:
    answer = tmp_path / "answer"
    OneShotRequest(lambda what: None, answer.exists, tmp_path / "asked").turn(
        ONE, Override("choose", "look at it #1.1")
    )
    control = OneShotRequest(lambda what: None, answer.exists, tmp_path / "asked")
    assert control.read() == NOTHING
    answer.touch()
    assert control.read() == "look at it #1.1"
    control.undo(ONE)
    assert OneShotRequest(lambda what: None, answer.exists, tmp_path / "asked").read() == NOTHING


def test_a_request_that_failed_shows_nothing_of_the_one_before() -> None:
    def carry_out(what: str) -> None:
        if what == "second":
            raise OSError("gone")

    control = OneShotRequest(carry_out, lambda: True)
    control.turn(ONE, Override("choose", "first #1.1"))
    with pytest.raises(OSError, match="gone"):
        control.turn(ONE, Override("choose", "second #1.2"))
    assert control.read() == NOTHING
