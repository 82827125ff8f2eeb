"""What several processes agree on: one row, one outcome, one error; and what a shard's record holds it to."""

from __future__ import annotations

import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from premortem.core.action import Outcome
from premortem.core.errors import StageError
from premortem.core.signal import Signal
from premortem.run.distributed.agreeing import Agreement, together
from premortem.stages.train.checkpoint.files import check_files, record_of
from premortem.stages.train.distributed.peers import ALONE, Group, Peers
from premortem.stages.train.guarded.signals import SIGNALS


class Heard(Peers):
    """This process's side of a company whose others say what the test says."""

    def __init__(self, others: list[list[float]]) -> None:
        self.size, self._others = 1 + len(others), others

    def numbers(self, values: list[float]) -> list[list[float]]:
        return [values, *self._others]


def said(row: list[float | None], seconds: float = 9.0, *, due: bool = False, asked: bool = False) -> list[float]:
    """What a process gives in a step, taken from one that does."""
    heard: list[list[float]] = []

    class Ear(Heard):
        def numbers(self, values: list[float]) -> list[list[float]]:
            heard.append(values)
            return super().numbers(values)

    Agreement(Ear([[0.0] * (3 + 2 * len(row))]), SIGNALS[: len(row)]).of(row, seconds, is_due=due, is_asked=asked)
    return heard[0]


WIDTH = len(SIGNALS)
values = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True))
rows = st.lists(values, min_size=WIDTH, max_size=WIDTH)


@given(st.lists(rows, min_size=2, max_size=5), st.randoms(use_true_random=False))
def test_the_row_does_not_depend_on_who_looks_and_nothing_bad_is_averaged_away(
    given_rows: list[list[float | None]], chance: Any
) -> None:
    first, *others = given_rows
    agreed = Agreement(Heard([said(row) for row in others]), SIGNALS).of(first, 1.0, is_due=False, is_asked=False).row
    shuffled = [*given_rows]
    chance.shuffle(shuffled)
    again = Agreement(Heard([said(r) for r in shuffled[1:]]), SIGNALS).of(
        shuffled[0], 1.0, is_due=False, is_asked=False
    )
    for slot, signal in enumerate(SIGNALS):
        seen, mine = [row[slot] for row in given_rows], agreed[slot]
        other = again.row[slot]
        assert mine == other or (mine is not None and other is not None and math.isnan(mine) and math.isnan(other))
        present = [value for value in seen if value is not None]
        if len(present) < len(seen):
            assert mine is None
        elif any(map(math.isnan, present)):
            assert mine is not None
            assert math.isnan(mine)
        elif signal.name != "loss":
            assert mine == (max(present) if signal.higher_is_worse else min(present))
        elif not all(map(math.isfinite, present)):
            assert mine is not None
            assert not math.isfinite(mine)


def test_clock_and_saving_are_the_firsts_and_sigterm_is_anybodys() -> None:
    row: list[float | None] = [1.0, 2.0]
    signals = (Signal("loss"), Signal("accuracy", higher_is_worse=False))
    other = said([3.0, None], 100.0, due=True, asked=True)
    agreed = Agreement(Heard([other]), signals).of(row, 5.0, is_due=False, is_asked=False)
    assert (agreed.row, agreed.seconds, agreed.is_due, agreed.is_asked) == ([2.0, None], 5.0, False, True)
    assert agreed.missing_in_some == ("accuracy",)
    alone = Agreement(ALONE, signals).of(row, 5.0, is_due=True, is_asked=False)
    assert (alone.row, alone.is_due, alone.missing_in_some) == (row, True, ())


@pytest.mark.parametrize(
    ("outcomes", "ok", "value"),
    [
        ([Outcome(True, 0.5), Outcome(True, 0.5)], True, 0.5),
        ([Outcome(True, 0.5), Outcome(True, 1.0)], False, None),
        ([Outcome(True, "nothing"), Outcome(False, None, "the disk is full")], False, None),
        ([Outcome(True, 0.5), Outcome(None, None, "no answer within 30 s")], None, None),
        ([Outcome(None), Outcome(False)], False, None),
    ],
)
def test_an_outcome_is_good_only_where_all_had_it(outcomes: list[Outcome], ok: bool | None, value: object) -> None:
    one = together(outcomes)
    assert (one.ok, one.value) == (ok, value)
    assert ok is True or one.detail.startswith("process ")


@given(st.lists(st.tuples(st.floats(), st.floats(min_value=0)), min_size=1, max_size=4))
@example(3 * [(sys.float_info.max, 0.0)])
def test_no_process_may_take_a_step_that_is_not_finite_in_one(seen: list[tuple[float, float]]) -> None:
    company: Any = Heard([list(pair) for pair in seen[1:]])
    loss, norm = Group.judge(company, *seen[0])
    assert math.isfinite(norm) == all(math.isfinite(n) for _, n in seen)
    losses = [x for x, _ in seen]
    if all(map(math.isfinite, losses)):
        assert min(losses) <= loss <= max(losses)
    else:
        assert not math.isfinite(loss)


@given(st.binary(min_size=1, max_size=300), st.data())
def test_any_byte_of_a_shard_that_changed_is_found(data: bytes, chance: Any) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "__0_0.distcp"
        path.write_bytes(data)
        record = record_of(path)
        check_files(Path(place), [record])
        at = chance.draw(st.integers(0, len(data) - 1))
        path.write_bytes(data[:at] + bytes([data[at] ^ (1 << chance.draw(st.integers(0, 7)))]) + data[at + 1 :])
        with pytest.raises(StageError, match="does not match its hash"):
            check_files(Path(place), [record])
        path.write_bytes(data[:-1])
        with pytest.raises(StageError, match="cut or grown"):
            check_files(Path(place), [record])
        path.unlink()
        with pytest.raises(StageError, match="cannot be read"):
            check_files(Path(place), [record])
