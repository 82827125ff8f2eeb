"""A batch in pieces has the gradient of the whole, whatever it is made of and however it is cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence
from transformers import BatchEncoding

from premortem.stages.train.guarded.splitting import CannotSplit, evenly, num_elements, num_samples, split
from premortem.stages.train.guarded.stepper import Companions, Stepper


@dataclass(frozen=True)
class Sample:
    x: Tensor
    y: Tensor
    names: list[str]
    scale: float = 2.0


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


def batches(count: int) -> dict[str, tuple[Any, Any]]:
    """By name: a batch, and how a loss finds x and y in it."""
    x, y = torch.randn(count, 5, dtype=torch.float64), torch.randn(count, 3, dtype=torch.float64)
    names = [str(i) for i in range(count)]
    return {
        "tuple": ((x, y), lambda b: (b[0], b[1])),
        "named tuple": (Pair(x, y), lambda b: (b.x, b.y)),
        "dict": ({"x": x, "y": y, "names": names, "epoch": 3, "none": None}, lambda b: (b["x"], b["y"])),
        "data class": (Sample(x, y, names), lambda b: (b.x, b.y)),
        "nested": ([{"in": (x, [names])}, {"out": {"y": y, "step": torch.tensor(7)}}],
                   lambda b: (b[0]["in"][0], b[1]["out"]["y"])),
        "encoding": (BatchEncoding({"x": x, "y": y}), lambda b: (b["x"], b["y"])),
        "array": ((x, y.numpy()), lambda b: (b[0], torch.from_numpy(b[1]))),
    }  # fmt: skip


KINDS = sorted(batches(2))


@given(
    kind=st.sampled_from(KINDS), sizes=st.lists(st.integers(1, 5), min_size=1, max_size=6), seed=st.integers(0, 999),
    accumulate=st.integers(1, 3), weighed=st.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_the_gradient_of_the_pieces_is_that_of_the_whole(
    kind: str, sizes: list[int], seed: int, accumulate: int, weighed: bool
) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()
    stepper = Stepper(model, torch.optim.SGD(model.parameters(), lr=0.1), Companions(), accumulate=accumulate)
    batch, parts = batches(sum(sizes))[kind]

    def weight(piece: Any) -> float:
        return float((parts(piece)[0][:, 0].abs() + 0.1).sum())

    def loss_of(piece: Any) -> Tensor:
        x, y = parts(piece)
        errors = (model(x) - y).square().mean(1)
        if not weighed:
            return errors.mean()
        weights = x[:, 0].abs() + 0.1
        return (errors * weights).sum() / weights.sum()

    whole = stepper.add(loss_of(batch))
    expected = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    stepper.let_go()
    pieces = list(split(batch, sizes))
    shares = [weight(p) if weighed else float(n) for p, n in zip(pieces, sizes, strict=True)]
    losses = [stepper.add(loss_of(p), s / sum(shares)) for p, s in zip(pieces, shares, strict=True)]
    for found, right in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(found.grad, right, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(sum(losses), whole, rtol=1e-9, atol=1e-12)
    assert all(type(piece) is type(batch) for piece in pieces)


@given(count=st.integers(1, 200), at_most=st.integers(1, 200))
def test_pieces_are_few_and_even(count: int, at_most: int) -> None:
    sizes = evenly(count, at_most)
    assert sum(sizes) == count
    assert max(sizes) <= at_most
    assert max(sizes) - min(sizes) <= 1
    assert len(sizes) == -(-count // at_most)


def test_what_belongs_to_a_sample_goes_with_it() -> None:
    batch = {"x": torch.arange(4), "names": ["a", "b", "c", "d"], "pair": ("left", "right"), "ids": np.arange(4)}
    first, second = split(batch, [3, 1])
    assert first["names"] == ["a", "b", "c"]
    assert second["names"] == ["d"]
    assert second["ids"].tolist() == [3]
    assert second["pair"] == ("left", "right")
    assert batch["x"].tolist() == [0, 1, 2, 3]


def test_a_long_sequence_counts_as_long() -> None:
    assert num_elements((torch.zeros(4, 100), torch.zeros(4))) == 404


@pytest.mark.parametrize(
    ("batch", "why"),
    [
        ((torch.zeros(8, 2), torch.zeros(9, 2)), "8 and 9"),
        ({"mask": torch.zeros(5, 5), "x": torch.zeros(8, 5)}, "5 and 8"),
        (["only", "texts"], "no tensor"),
        (torch.tensor(1.0), "no tensor"),
        (pack_sequence([torch.zeros(3), torch.zeros(2)]), "PackedSequence"),
    ],
)
def test_what_cannot_be_cut_is_said(batch: Any, why: str) -> None:
    with pytest.raises(CannotSplit, match=why):
        num_samples(batch)
