"""Wrong labels and corrupt rows, counted here from the source and what was handed out."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from premortem.core.errors import ConfigError
from premortem.faults.data import CorruptRows, LabelNoise, RandomShare


def share(of: float, seed: int = 0) -> RandomShare:
    return RandomShare(of, torch.Generator().manual_seed(seed))


@given(of=st.floats(0.05, 1), num_classes=st.integers(2, 9), seed=st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_the_share_of_wrong_labels_is_the_one_asked_for(of: float, num_classes: int, seed: int) -> None:
    labels = torch.randint(num_classes, (2000,), generator=torch.Generator().manual_seed(seed))
    with LabelNoise([(torch.ones(2000, 1), labels)], share(of, seed), part=1, num_classes=num_classes) as fault:
        ((_, noisy),) = fault
    wrong = (noisy != labels).float().mean().item()
    assert abs(wrong - of) < 0.06, "5 standard deviations of 2,000 draws"
    assert 0 <= int(noisy.min()) <= int(noisy.max()) < num_classes
    assert fault.observed().holds
    assert fault.gone().holds


def test_wrong_labels_harm_a_real_classifier_and_clean_ones_do_not() -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(512, 5, generator=rng)
    y = (x[:, 0] > 0).long()

    def accuracy(batches: object) -> float:
        torch.manual_seed(0)
        model = nn.Linear(5, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        for _ in range(30):
            for a, b in batches:
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(a), b).backward()
                optimizer.step()
        return (model(x).argmax(1) == y).float().mean().item()

    fault = LabelNoise([(x, y)], share(0.9), part=1, num_classes=2)
    with fault:
        harmed = accuracy(fault)
    assert harmed < 0.5
    assert accuracy(fault) > 0.9


@pytest.mark.parametrize("raised", [RuntimeError, KeyboardInterrupt])
def test_labels_and_rows_are_clean_after_an_error(raised: type[BaseException]) -> None:
    batch = {"x": torch.ones(50, 2), "y": torch.zeros(50, dtype=torch.long)}
    for fault in (
        LabelNoise([batch], share(0.5), part="y", num_classes=5),
        CorruptRows([batch], share(0.5), "nan", part="x"),
    ):
        with pytest.raises(raised), fault:  # noqa: PT012
            next(iter(fault))
            raise raised
        (after,) = fault
        assert torch.equal(after["x"], torch.ones(50, 2))
        assert int(after["y"].sum()) == 0
        assert fault.observed().holds
        assert fault.gone().holds


def test_ignored_labels_stay_and_real_valued_ones_come_from_the_batch() -> None:
    classes = torch.tensor([-100, 1, -100, 0])
    with LabelNoise([[classes]], share(1.0), part=0, num_classes=3) as fault:
        noisy = fault.hand_out([classes], 0)[0]
    assert (noisy == classes).tolist() == [True, False, True, False]
    values = torch.arange(100.0)
    with LabelNoise([[values]], share(1.0), part=0, num_classes=None) as fault:
        noisy = fault.hand_out([values], 0)[0]
    assert set(noisy.tolist()) <= set(values.tolist())
    assert (noisy != values).float().mean() > 0.9


def test_a_replayed_step_meets_the_same_damage_and_other_steps_other_rows() -> None:
    batch = (torch.randn(64, 3),)
    with CorruptRows([batch], share(0.3), "scrambled") as fault:
        one, again, other = (fault.hand_out(batch, step)[0] for step in (5, 5, 6))
    with CorruptRows([batch], share(0.3), "scrambled") as fault:
        same_seed = fault.hand_out(batch, 5)[0]
    assert torch.equal(one.view(torch.uint8), again.view(torch.uint8))
    assert torch.equal(one.view(torch.uint8), same_seed.view(torch.uint8))
    assert not torch.equal(one.view(torch.uint8), other.view(torch.uint8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.uint8])
@pytest.mark.parametrize("shape", [(40, 6), (40,), (40, 2, 3)])
def test_scrambled_rows_keep_their_bytes_and_lose_their_order(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = torch.arange(1, 1 + torch.Size(shape).numel()).reshape(shape).to(dtype)
    with CorruptRows([x], share(0.5), "scrambled") as fault:
        (y,) = fault
    rows = [t.reshape(40, -1).view(torch.uint8) for t in (x, y)]
    assert torch.equal(rows[0].sort(1).values, rows[1].sort(1).values)
    changed = (rows[0] != rows[1]).any(1)
    if shape != (40,) or dtype not in (torch.uint8,):
        assert 0 < int(changed.sum()) < 40
        assert fault.observed().holds
    else:
        assert fault.observed().holds is False, "one byte has no other order"


def test_whole_rows_become_nan_and_only_floats() -> None:
    x, ids = torch.ones(200, 3), torch.arange(200)
    with CorruptRows([(x, ids)], share(0.25), "nan") as fault:
        ((bad, same),) = fault
    rows = bad.isnan().any(1)
    assert torch.equal(rows, bad.isnan().all(1))
    assert 20 < int(rows.sum()) < 80
    assert torch.equal(same, ids)
    assert not x.isnan().any()


def test_tokens_out_of_range_break_a_real_embedding() -> None:
    tokens = torch.zeros(20, 4, dtype=torch.long)
    embedding = nn.Embedding(10, 2)
    with CorruptRows([tokens], share(0.5), "out of range") as fault:
        (bad,) = fault
        with pytest.raises(IndexError):
            embedding(bad)
    (good,) = fault
    embedding(good)
    assert fault.gone().holds


def test_a_noise_left_behind_is_seen_by_gone() -> None:
    class Sticky(LabelNoise[list[Tensor]]):
        def _undo(self) -> None:
            pass

    with Sticky([[torch.zeros(9, dtype=torch.long)]], share(1.0), 0, 3) as fault:
        list(fault)
    assert fault.observed().holds
    assert fault.gone().holds is False


def test_what_cannot_be_hit_is_refused_in_one_line() -> None:
    floats, ints = torch.ones(4, 2), torch.ones(4, dtype=torch.long)
    cases = [
        (lambda: RandomShare(0, torch.Generator()), "share is 0"),
        (lambda: LabelNoise([[ints]], share(1), 0, 1), "num_classes is 1"),
        (lambda: LabelNoise([[ints]], share(1), 0, None), "num_classes is None"),
        (lambda: LabelNoise([[floats]], share(1), 0, 3), "num_classes is 3"),
        (lambda: CorruptRows([[ints]], share(1), "nan"), "can be made 'nan'"),
        (lambda: CorruptRows([[floats]], share(1), "out of range"), "can be made 'out of range'"),
        (lambda: CorruptRows([[floats]], share(1), "other"), "how is 'other'"),
    ]
    for make, message in cases:
        with pytest.raises(ConfigError, match=message) as caught, make() as fault:
            list(fault)
        assert "\n" not in str(caught.value)
