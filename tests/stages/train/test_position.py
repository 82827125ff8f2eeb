"""Resume is bit-exact at any point, for the data and for every random stream, or it is an error."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from premortem.core.errors import ConfigError, StageError
from premortem.stages.train.fingerprint import checksum
from premortem.stages.train.position import PositionedBatches, PositionState

ROWS = torch.arange(22 * 3, dtype=torch.float32).reshape(22, 3)


class Augmented(Dataset[Tensor]):
    """Draws from all three global streams for every row, as image pipelines do."""

    def __len__(self) -> int:
        return len(ROWS)

    def __getitem__(self, index: int) -> Tensor:
        return ROWS[index] + torch.rand(3) + random.random() + float(np.random.randn())


class Stream(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        worker = torch.utils.data.get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        yield from ROWS[first::step]


class OneShot(IterableDataset[Tensor]):
    def __init__(self) -> None:
        self.rows = iter(ROWS)

    def __iter__(self) -> Iterator[Tensor]:
        return self.rows


class LazySampler(Sampler[int]):
    """Draws each index from the global stream when it is asked for it."""

    def __init__(self, *, hidden: bool = False) -> None:
        self.source = random.Random(3) if hidden else random

    def __iter__(self) -> Iterator[int]:
        return (self.source.randrange(len(ROWS)) for _ in ROWS)

    def __len__(self) -> int:
        return len(ROWS)


def seeded(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


DATA = TensorDataset(ROWS)
Make = Callable[[int], DataLoader[Any]]
LOADERS: dict[str, Make] = {
    "shuffle": lambda w: DataLoader(DATA, 4, shuffle=True, num_workers=w),
    "shuffle with a generator": lambda w: DataLoader(DATA, 4, shuffle=True, generator=seeded(), num_workers=w),
    "with replacement": lambda w: DataLoader(
        DATA, 4, sampler=RandomSampler(DATA, replacement=True, num_samples=70, generator=seeded()), num_workers=w
    ),
    "weighted": lambda w: DataLoader(
        DATA, 4, sampler=WeightedRandomSampler([1.0 + i for i in range(22)], 22), num_workers=w
    ),
    "batch sampler": lambda w: DataLoader(
        DATA,
        batch_sampler=BatchSampler(SubsetRandomSampler(range(20), seeded()), 3, drop_last=True),
        num_workers=w,
    ),
    "distributed": lambda w: DataLoader(
        DATA, 2, sampler=DistributedSampler(DATA, num_replicas=2, rank=0), num_workers=w
    ),
    "augmented": lambda w: DataLoader(Augmented(), 4, shuffle=True, num_workers=w),
    "iterable": lambda w: DataLoader(Stream(), 4, num_workers=w),
}


def seed_streams(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def noise() -> tuple[float, ...]:
    """What a training step draws: dropout and the like, an odd number of cached numpy normals among them."""
    return (*torch.rand(2).tolist(), random.gauss(0, 1), float(np.random.randn()))


def train(batches: PositionedBatches[Any], steps: int) -> list[tuple[object, ...]]:
    """Epochs until ``steps`` batches were seen; what each step saw and drew."""
    seen: list[tuple[object, ...]] = []
    while len(seen) < steps:
        sampler = batches.loader.sampler
        if isinstance(sampler, DistributedSampler) and batches.index == 0:
            sampler.set_epoch(batches.epoch)
        for index, batch in batches:
            rows = batch[0] if isinstance(batch, list) else batch
            seen.append((batches.epoch, index, rows.tolist(), *noise()))
            if len(seen) == steps:
                break
    return seen


def through_a_file(state: PositionState) -> PositionState:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    loaded: PositionState = torch.load(buffer, weights_only=True)
    return loaded


def resume(make: Make, workers: int, state: PositionState) -> PositionedBatches[Any]:
    """As a new process would: other streams, a new loader, a model built after loading."""
    seed_streams(99)
    batches = PositionedBatches(make(workers))
    batches.load_state_dict(through_a_file(state))
    noise()
    return batches


def assert_resumes(make: Make, workers: int, stop: int, more: int, skip: set[tuple[int, int]]) -> None:
    seed_streams(1)
    batches = PositionedBatches(make(workers), skip=skip)
    train_in_one_go = train(batches, stop + more) if stop + more else []
    seed_streams(1)
    batches = PositionedBatches(make(workers), skip=skip)
    before = train(batches, stop)
    state = batches.state_dict()
    # Breaking out of the loop and beginning a new one would be a new epoch: go on as after a restart.
    after = train(resume(make, workers, state), more)
    assert before + after == train_in_one_go


@pytest.mark.parametrize("name", LOADERS)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    stop=st.integers(0, 17),
    more=st.integers(1, 9),
    skip=st.sets(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=4),
)
def test_resuming_anywhere_gives_the_same_batches_and_the_same_random_numbers(
    name: str, stop: int, more: int, skip: set[tuple[int, int]]
) -> None:
    assert_resumes(LOADERS[name], 0, stop, more, skip)


@pytest.mark.parametrize(("stop", "skip"), [(0, set()), (3, {(0, 1), (0, 4)}), (8, {(1, 3)})])
@pytest.mark.parametrize("name", ["shuffle", "with replacement", "augmented", "iterable"])
def test_resuming_with_two_workers_is_exact(name: str, stop: int, skip: set[tuple[int, int]]) -> None:
    assert_resumes(LOADERS[name], 2, stop, 5, skip)


@pytest.mark.parametrize("stop", [3, 8])
def test_workers_kept_alive_over_epochs_are_resumed_in_a_new_process_and_in_the_same(stop: int) -> None:
    def make(workers: int) -> DataLoader[Any]:
        return DataLoader(DATA, 4, shuffle=True, num_workers=workers, persistent_workers=True)

    assert_resumes(make, 2, stop, 5, set())
    seed_streams(1)
    batches = PositionedBatches(make(2))
    train(batches, stop)
    state = batches.state_dict()
    batches.load_state_dict(state)
    expected = train(batches, 5)
    batches.load_state_dict(state)
    assert train(batches, 5) == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_wrapping_changes_neither_batches_nor_random_streams(workers: int) -> None:
    def steps(wrapped: bool) -> list[object]:
        seed_streams(1)
        loader = LOADERS["augmented"](workers)
        source = PositionedBatches(loader) if wrapped else loader
        return [((pair[1] if wrapped else pair).tolist(), noise()) for _ in range(2) for pair in source]

    assert steps(wrapped=True) == steps(wrapped=False)


def test_a_restore_inside_the_loop_takes_effect_at_the_next_batch() -> None:
    seed_streams(1)
    batches = PositionedBatches(LOADERS["shuffle"](0))
    seen, state, rolled_back = [], None, False
    for index, (rows,) in batches:
        seen.append((index, rows.tolist(), noise()))
        if index == 1 and state is None:
            state = batches.state_dict()
        if index == 4 and not rolled_back:
            rolled_back = True
            assert state is not None
            batches.load_state_dict(state)
            noise()
    assert [index for index, *_ in seen] == [0, 1, 2, 3, 4, 2, 3, 4, 5]
    assert seen[2:5] == seen[5:8]


def test_the_streams_are_back_when_the_load_returns_and_a_state_taken_then_is_the_same() -> None:
    batches = PositionedBatches(LOADERS["augmented"](0))
    seed_streams(1)
    train(batches, 3)
    state = batches.state_dict()
    drawn = noise()
    batches.load_state_dict(state)
    assert noise() == drawn
    again = resume(LOADERS["augmented"], 0, batches.state_dict())
    noise()
    expected = train(resume(LOADERS["augmented"], 0, state), 4)
    again.load_state_dict(again.state_dict())
    assert train(again, 4) == expected


def test_a_rollback_forgets_no_skip_and_later_skips_count_after_it() -> None:
    seed_streams(1)
    batches = PositionedBatches(LOADERS["shuffle"](0), skip={(0, 5)})
    train(batches, 2)
    state = batches.state_dict()
    everything = train(batches, 1)
    batches.skip.add((0, 3))
    batches.load_state_dict(state)
    assert [index for index, _ in batches] == [2, 4]
    assert batches.skip == {(0, 3), (0, 5)}
    assert everything[0][0] == 1  # a loop that was left is an epoch that ended


def test_a_checkpoint_at_the_last_batch_resumes_into_the_next_epoch() -> None:
    seed_streams(1)
    batches = PositionedBatches(LOADERS["shuffle"](0))
    train(batches, 6)
    resumed = resume(LOADERS["shuffle"], 0, batches.state_dict())
    assert list(resumed) == []
    assert (resumed.epoch, resumed.index) == (1, 0)


def test_length_is_the_loaders_and_an_exhausted_position_stays_exhausted() -> None:
    batches = PositionedBatches(LOADERS["shuffle"](0))
    assert len(batches) == 6
    assert len(list(batches)) == 6
    with pytest.raises(StopIteration):
        next(batches)


# --- what must be an error ------------------------------------------------------------------------------------


def position_after(steps: int, make: Make, workers: int = 0) -> PositionState:
    seed_streams(1)
    batches = PositionedBatches(make(workers))
    train(batches, steps)
    return batches.state_dict()


def test_a_loader_of_another_length_is_refused() -> None:
    state = position_after(3, LOADERS["shuffle"])
    with pytest.raises(ConfigError, match="has 11 batches an epoch, the checkpoint 6"):
        PositionedBatches(DataLoader(DATA, 2, shuffle=True)).load_state_dict(state)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("changed_batch", [0, 2])
def test_changed_data_are_noticed_in_the_last_batch_and_in_an_earlier_one(changed_batch: int, shuffle: bool) -> None:
    seed_streams(1)
    batches = PositionedBatches(DataLoader(DATA, 4, shuffle=shuffle))
    seen = [rows for _, (rows,) in zip(range(3), (batch for _, batch in batches), strict=False)]
    changed = ROWS.clone()
    changed[int(seen[changed_batch][0, 0]) // 3, 0] += 1
    same, other = (PositionedBatches(DataLoader(TensorDataset(r), 4, shuffle=shuffle)) for r in (ROWS, changed))
    same.load_state_dict(batches.state_dict())
    with pytest.raises(StageError, match="data or order changed"):
        other.load_state_dict(batches.state_dict())


def test_a_failed_load_leaves_position_and_streams_as_they_were() -> None:
    state = position_after(3, lambda w: DataLoader(DATA, 4, shuffle=True, num_workers=w))

    def steps(*, with_failed_load: bool) -> list[tuple[object, ...]]:
        seed_streams(2)
        batches = PositionedBatches(DataLoader(TensorDataset(ROWS + 1), 4, shuffle=True))
        seen = []
        for index, (rows,) in batches:
            if index == 1 and with_failed_load:
                with pytest.raises(StageError):
                    batches.load_state_dict(state)
            seen.append((index, rows.tolist(), noise()))
        return seen

    assert steps(with_failed_load=True) == steps(with_failed_load=False)


def test_a_data_set_that_can_be_iterated_once_resumes_in_a_new_process_but_cannot_be_wound_back() -> None:
    def make(workers: int) -> DataLoader[Any]:
        return DataLoader(OneShot(), 4, num_workers=workers)

    assert_resumes(make, 0, 2, 3, set())
    batches = PositionedBatches(make(0))
    train(batches, 2)
    with pytest.raises(ConfigError, match="can be iterated once only"):
        batches.load_state_dict(batches.state_dict())


def test_a_stream_that_ends_before_the_position_is_an_error() -> None:
    state = position_after(4, LOADERS["iterable"])
    shorter = DataLoader(OneShot(), 4)
    next(iter(shorter.dataset))
    list(zip(range(12), shorter.dataset, strict=False))
    with pytest.raises(StageError, match="ended after 3 batches of epoch 0: the checkpoint's position is 4"):
        PositionedBatches(shorter).load_state_dict(state)


def test_other_workers_are_refused_for_a_stream_and_accepted_where_they_do_not_matter() -> None:
    with pytest.raises(ConfigError, match="has 2 workers, the checkpoint 0"):
        PositionedBatches(LOADERS["iterable"](2)).load_state_dict(position_after(2, LOADERS["iterable"]))
    seed_streams(1)
    expected = train(PositionedBatches(LOADERS["shuffle"](0)), 5)[3:]
    assert train(resume(LOADERS["shuffle"], 2, position_after(3, LOADERS["shuffle"])), 2) == expected


def test_a_sampler_that_draws_as_it_goes_is_exact_alone_and_refused_when_workers_read_ahead() -> None:
    def make(workers: int) -> DataLoader[Any]:
        return DataLoader(DATA, 2, sampler=LazySampler(), num_workers=workers)

    assert_resumes(make, 0, 3, 4, set())
    state = position_after(3, make, workers=2)
    with pytest.raises(ConfigError, match="draws from the python stream while workers read ahead"):
        PositionedBatches(make(2)).load_state_dict(state)


def test_a_generator_that_is_drawn_from_as_the_epoch_goes_needs_the_same_number_of_workers() -> None:
    state = position_after(14, LOADERS["with replacement"], workers=2)
    with pytest.raises(ConfigError, match="draws from the generators stream while workers read ahead"):
        PositionedBatches(LOADERS["with replacement"](0)).load_state_dict(state)


def test_random_state_hidden_in_a_sampler_is_noticed() -> None:
    def make(workers: int) -> DataLoader[Any]:
        return DataLoader(DATA, 4, sampler=LazySampler(hidden=True), num_workers=workers)

    state = position_after(8, make)
    with pytest.raises(StageError, match="sampler hides random state"):
        PositionedBatches(make(0)).load_state_dict(state)


def test_a_generator_of_ones_own_is_kept_when_it_is_named() -> None:
    class Noisy(Dataset[Tensor]):
        def __init__(self) -> None:
            self.source = seeded()

        def __len__(self) -> int:
            return 12

        def __getitem__(self, index: int) -> Tensor:
            return ROWS[index] + torch.rand(3, generator=self.source)

    def build() -> PositionedBatches[Tensor]:
        data = Noisy()
        return PositionedBatches(DataLoader(data, 4, shuffle=True), generators=[data.source])

    seed_streams(1)
    expected = train(build(), 6)
    seed_streams(1)
    batches = build()
    begun = train(batches, 2)
    resumed = build()
    resumed.load_state_dict(batches.state_dict())
    assert begun + train(resumed, 4) == expected
    with pytest.raises(ConfigError, match="have 0 torch generators, the checkpoint 1"):
        PositionedBatches(resumed.loader).load_state_dict(batches.state_dict())


def test_a_loader_without_order_is_refused() -> None:
    with pytest.raises(ConfigError, match="in_order=False"):
        PositionedBatches(DataLoader(DATA, 4, num_workers=1, in_order=False))


def test_a_numpy_stream_that_is_not_the_default_is_refused() -> None:
    default = np.random.get_bit_generator()
    try:
        np.random.set_bit_generator(np.random.PCG64(1))
        with pytest.raises(ConfigError, match="stream is PCG64: expected MT19937"):
            next(iter(PositionedBatches(LOADERS["shuffle"](0))))
    finally:
        np.random.set_bit_generator(default)


# --- the checksum ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.zeros(4), torch.zeros(2, 2)),
        (torch.zeros(4), torch.zeros(4, dtype=torch.int32)),
        (torch.tensor([True]), torch.tensor([False])),
        (torch.ones(3, dtype=torch.bfloat16), torch.zeros(3, dtype=torch.bfloat16)),
        (np.arange(3), np.arange(1, 4)),
        ({"a": 1}, {"b": 1}),
        ([1, "x"], [1, "y"]),
        ([[1], 2], [[1, 2]]),
        (None, 0),
    ],
)
def test_the_checksum_tells_contents_types_and_shapes_apart(one: object, other: object) -> None:
    assert checksum(one) != checksum(other)


def test_the_checksum_reads_both_ends_of_a_large_tensor_and_does_not_depend_on_strides() -> None:
    large = torch.zeros(300_000)
    for row in (0, -1):
        changed = large.clone()
        changed[row] = 1
        assert checksum(changed) != checksum(large)
    grid = torch.arange(12).reshape(3, 4)
    assert checksum(grid.t()) == checksum(grid.t().contiguous())
