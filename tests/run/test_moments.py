"""Moments in memory: cheap, checked, and given up where they would cost what they are to save."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from premortem.run.moments import Moments

SMALL = {"model": {"w": torch.arange(6.0), "n": 3, "of": [torch.ones(2), ("a", None)]}}


def stepped(moments: Moments, num: int, seconds: float = 1.0) -> Moments:
    for _ in range(num):
        moments.stepped(seconds)
    return moments


def test_a_moment_is_a_copy_that_earns_its_mark_by_its_own_tick() -> None:
    live: dict[str, Any] = {"model": {"w": torch.arange(6.0)}}
    moments = Moments(lambda: live)
    assert moments.take(25, 24)
    live["model"]["w"].add_(1.0)
    assert moments.good() is None
    assert not moments.mark_good(24)
    assert moments.mark_good(25)
    step, parts = moments.good() or (0, {})
    assert step == 24
    assert torch.equal(parts["model"]["w"], torch.arange(6.0))
    parts["model"]["w"].zero_()
    assert torch.equal((moments.good() or (0, {}))[1]["model"]["w"], torch.arange(6.0))


def test_a_moment_whose_bytes_changed_is_not_given() -> None:
    moments = Moments(lambda: SMALL)
    moments.take(1, 1)
    moments.mark_good(1)
    assert moments._good is not None
    moments._good.parts["model"]["of"][0][1] = 7.0
    assert moments.good() is None
    assert moments.good() is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda model: model.update(n=4),
        lambda model: model.update(w=model["w"].view(torch.int32)),
        lambda model: model.update(w=model["w"].reshape(2, 3)),
        lambda model: model.update(v=model.pop("w")),
    ],
)
def test_a_moment_is_held_to_its_names_types_shapes_and_plain_values_too(damage: Callable[[dict], None]) -> None:
    moments = Moments(lambda: {"model": {"n": 3, "w": torch.arange(6.0)}})
    moments.take(1, 1)
    moments.mark_good(1)
    assert moments._good is not None
    damage(moments._good.parts["model"])
    assert moments.good() is None


def test_what_torch_asks_of_a_state_at_loading_is_kept() -> None:
    layer = torch.nn.BatchNorm1d(2)
    moments = Moments(lambda: {"model": layer.state_dict()})
    moments.take(1, 1)
    moments.mark_good(1)
    _, parts = moments.good() or (0, {})
    assert parts["model"]._metadata == layer.state_dict()._metadata  # type: ignore[attr-defined]
    assert list(parts["model"]) == list(layer.state_dict())


def test_its_pace_is_bounded_in_steps_and_in_time() -> None:
    moments = Moments(lambda: SMALL)
    assert not stepped(moments, 59).is_due
    assert stepped(moments, 1).is_due
    moments.take(60, 60)
    assert not moments.is_due
    assert stepped(moments, 25).is_due
    slow = Moments(lambda: SMALL)
    slow.take(1, 1)
    assert not stepped(slow, 1000, seconds=0.0).is_due


def test_only_three_are_held_and_going_back_leaves_what_came_later() -> None:
    moments = Moments(lambda: SMALL)
    for tick in (25, 50, 75, 100):
        moments.take(tick, tick)
    assert not moments.mark_good(50)
    assert moments.mark_good(75)
    moments.leave(beyond=80)
    assert moments.good() is not None
    assert not moments.mark_good(100)
    moments.leave(beyond=74)
    assert moments.good() is None


def test_what_is_too_large_for_memory_is_never_copied() -> None:
    large = {"model": {"w": torch.empty(6 << 20)}}
    moments = Moments(lambda: large)
    assert not moments.take(25, 25)
    assert not stepped(moments, 500).is_due


def test_where_memory_is_short_all_are_let_go() -> None:
    moments = Moments(lambda: SMALL)
    moments.take(1, 1)
    moments.mark_good(1)
    moments.give_up()
    assert moments.good() is None
    assert not stepped(moments, 500).is_due


def test_what_cannot_be_copied_is_left_to_bundles() -> None:
    moments = Moments(lambda: {"model": {"lines": (line for line in "abc")}})
    assert not moments.take(25, 25)
    assert not stepped(moments, 500).is_due
