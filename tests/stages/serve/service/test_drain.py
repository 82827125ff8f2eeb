"""The measured rate: of full batches alone, and never a reason to refuse clients for ever."""

from __future__ import annotations

import pytest

from premortem.stages.serve.service.drain import Drain


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def answer(drain: Drain, clock: Clock, *, batches: int, spent_s: float = 0.02, count: int = 16) -> None:
    """Full batches, each so many answers after so much time; what is left fills the next."""
    for _ in range(batches):
        clock.now += spent_s
        drain.answered(count, is_full=True)


def test_nothing_is_known_before_two_full_batches(clock: Clock) -> None:
    drain = Drain(clock)
    assert (drain.per_s, drain.wait_s(50)) == (None, 0.0)
    answer(drain, clock, batches=1)
    assert drain.per_s is None
    answer(drain, clock, batches=1)
    assert drain.per_s == pytest.approx(800)
    assert drain.wait_s(80) == pytest.approx(0.1)


def test_time_in_which_the_batch_was_not_full_does_not_count(clock: Clock) -> None:
    drain = Drain(clock)
    answer(drain, clock, batches=3)
    drain.answered(16, is_full=False)
    clock.now += 1.0
    answer(drain, clock, batches=3)
    assert drain.per_s == pytest.approx(800)


def test_a_lasting_change_is_followed_within_seconds(clock: Clock) -> None:
    drain = Drain(clock)
    answer(drain, clock, batches=10)
    answer(drain, clock, batches=100, spent_s=0.08)
    assert drain.per_s == pytest.approx(200, rel=0.1)


def test_one_pause_is_no_rate(clock: Clock) -> None:
    drain = Drain(clock)
    answer(drain, clock, batches=10)
    answer(drain, clock, batches=1, spent_s=5.0)
    assert drain.per_s is not None
    assert drain.per_s > 500


def test_a_rate_that_lets_no_batch_fill_is_forgotten(clock: Clock) -> None:
    drain = Drain(clock)
    answer(drain, clock, batches=1)
    answer(drain, clock, batches=1, spent_s=5.0)
    drain.answered(1, is_full=False)
    assert drain.wait_s(32) > 1.0
    clock.now += 3.1
    drain.answered(1, is_full=False)
    assert (drain.per_s, drain.wait_s(32)) == (None, 0.0)
    answer(drain, clock, batches=2)
    assert drain.per_s == pytest.approx(800), "measured anew, without what was before"


def test_a_slow_model_with_a_full_batch_at_work_is_not_forgotten(clock: Clock) -> None:
    drain = Drain(clock)
    answer(drain, clock, batches=3, spent_s=8.0)
    clock.now += 7.0
    assert drain.per_s == pytest.approx(2)


def test_another_worker_begins_anew(clock: Clock) -> None:
    drain = Drain(clock)
    answer(drain, clock, batches=3)
    drain.forget()
    assert drain.per_s is None
    clock.now += 60
    answer(drain, clock, batches=1)
    assert drain.per_s is None, "the start of a worker is not its rate"


def test_a_batch_that_could_not_be_computed_measures_nothing(clock: Clock) -> None:
    drain = Drain(clock)
    answer(drain, clock, batches=3)
    drain.stopped()
    answer(drain, clock, batches=1, spent_s=2.0)
    assert drain.per_s == pytest.approx(800)
