"""A data loader with a position that can be saved, restored and verified, bit for bit.

How it is exact: making a loader's iterator draws seeds from random streams, so these are captured just before.
To resume, they are put back, the iterator is made again, the consumed batches are drawn and dropped, and the
streams are set to what they were at the checkpoint. Checksums of all batches show data that changed meanwhile.

Covered: map-style with any sampler, iterable data sets that can be iterated again, any number of workers,
generators of loader and samplers, ``set_epoch``, data sets that draw random numbers in the main process.
Not covered: random state hidden inside a sampler or data set, and workers kept alive over epochs that augment
at random: an error at resume, not a silent drift. Resuming costs the loading of the consumed batches.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypedDict, TypeVar, runtime_checkable

import torch
from torch.utils.data import DataLoader, IterableDataset

from premortem.core.errors import ConfigError, StageError
from premortem.stages.train.fingerprint import checksum
from premortem.stages.train.streams import Streams, capture, drawn_between, restore

Batch = TypeVar("Batch")


class PositionState(TypedDict):
    """Everything needed to resume; tensors, plain numbers, lists and tuples only.

    ``made``: streams before the epoch's iterator was made. ``before_last``: before the last batch, where the
    main process loads. ``now``: at the checkpoint. ``checksums``: of the last batch, and of all in the epoch.
    ``read_ahead``: workers, and batches that each prepares in advance.
    """

    epoch: int
    index: int
    made: Streams | None
    before_last: Streams | None
    now: Streams
    set_epochs: list[int]
    is_first_iterator: bool
    checksums: tuple[int, int]
    num_batches: int | None
    read_ahead: tuple[int, int]
    skip: list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class _Origin:
    """The moment just before the iterator of an epoch was made."""

    streams: Streams
    set_epochs: list[int]
    is_first_iterator: bool


@dataclass(frozen=True, slots=True)
class _Drawn:
    """Progress within an epoch."""

    index: int = 0
    checksums: tuple[int, int] = (0, 0)
    before_last: Streams | None = None

    def after(self, batch: object, before: Streams | None) -> _Drawn:
        last = checksum(batch)
        return _Drawn(self.index + 1, (last, zlib.crc32(struct.pack("<I", last), self.checksums[1])), before)


class PositionedBatches(Generic[Batch]):
    """Iterates ``loader`` as it would alone, with a position: yields ``(index in the epoch, batch)``.

    Each ``for`` loop is one epoch, also one that is left early. After :meth:`load_state_dict` the loop that runs,
    or else the next one, goes on with the next batch, so a restore inside the loop works. ``skip`` holds
    (epoch, index) of batches that are drawn but not yielded; it may be added to at any time.
    ``generators``: further torch generators that the sampler or data set draws from, in a fixed order.
    Raises ``ConfigError`` for a loader whose order is not deterministic.
    """

    def __init__(
        self,
        loader: DataLoader[Batch],
        *,
        skip: Iterable[tuple[int, int]] = (),
        generators: Sequence[torch.Generator] = (),
    ) -> None:
        if loader.num_workers and not getattr(loader, "in_order", True):
            raise ConfigError("loader has in_order=False: its order cannot be resumed; build it with in_order=True")
        self.loader = loader
        self.skip = set(skip)
        self.epoch = 0
        known = [getattr(source, "generator", None) for source in _sources(loader)]
        found = [*(g for g in known if isinstance(g, torch.Generator)), *generators]
        self._generators = list({id(generator): generator for generator in found}.values())
        self._iterator: Iterator[Batch] | None = None
        self._origin: _Origin | None = None
        self._drawn = _Drawn()
        self._streams_at_resume: Streams | None = None
        self._has_drawn = False

    @property
    def index(self) -> int:
        """Batches drawn in this epoch, skipped ones included: the index of the next one."""
        return self._drawn.index

    def __len__(self) -> int:
        """Batches an epoch, skipped ones included; ``TypeError`` where the loader has no length."""
        return len(self.loader)

    def __iter__(self) -> PositionedBatches[Batch]:
        """Begin an epoch, or go on where :meth:`load_state_dict` pointed."""
        if self._streams_at_resume is None:
            self._begin_epoch()
        return self

    def __next__(self) -> tuple[int, Batch]:
        """Draw until a batch is not to be skipped."""
        if self._streams_at_resume is not None:
            # Building a model between the load and the loop draws random numbers; they must not count.
            restore(self._streams_at_resume, self._generators)
            self._streams_at_resume = None
            if self._iterator is None:
                self._begin_epoch()
        while self._iterator is not None:
            before = None if self.loader.num_workers else capture(self._generators)
            try:
                batch = next(self._iterator)
            except StopIteration:
                self._iterator, self._origin, self._drawn = None, None, _Drawn()
                self.epoch += 1
                break
            index, self._has_drawn = self.index, True
            self._drawn = self._drawn.after(batch, before)
            if (self.epoch, index) not in self.skip:
                return index, batch
        raise StopIteration

    def state_dict(self) -> PositionState:
        """The position after the last batch that was yielded, and all random streams as they are now."""
        origin = self._origin
        return PositionState(
            epoch=self.epoch,
            index=self.index,
            made=origin.streams if origin else None,
            before_last=self._drawn.before_last,
            now=self._streams_at_resume or capture(self._generators, with_accelerators=True),
            set_epochs=origin.set_epochs if origin else [],
            is_first_iterator=origin.is_first_iterator if origin else True,
            checksums=self._drawn.checksums,
            num_batches=_num_batches(self.loader),
            read_ahead=_read_ahead(self.loader),
            skip=sorted(self.skip),
        )

    def load_state_dict(self, state: PositionState) -> None:
        """Wind forward to the position, verify it, and restore the random streams (again at the next batch).

        The skip set becomes the union of both: a rollback forgets no skip. Raises ``ConfigError`` for a loader
        that cannot give the same batches, ``StageError`` when the data have changed; the position then stays.
        """
        self._require_same_loader(state)
        outside = capture(self._generators, with_accelerators=True)
        made = state["made"]
        origin, iterator = None, None
        try:
            if made is not None:
                origin = _Origin(made, list(state["set_epochs"]), state["is_first_iterator"])
                iterator = self._iterator_made_at(origin)
                self._wind(iterator, state)
        except BaseException:
            restore(outside, self._generators)
            raise
        self._iterator, self._origin, self.epoch = iterator, origin, state["epoch"]
        self._drawn = _Drawn(state["index"], (state["checksums"][0], state["checksums"][1]), state["before_last"])
        self._has_drawn |= iterator is not None
        self.skip |= {(epoch, index) for epoch, index in state["skip"]}
        self._streams_at_resume = state["now"]
        restore(state["now"], self._generators)

    def _begin_epoch(self) -> None:
        self.epoch += bool(self.index)
        epochs = [source.epoch for source in _epoch_sources(self.loader)]
        is_first = not self.loader.persistent_workers or self.loader._iterator is None
        self._origin = _Origin(capture(self._generators), epochs, is_first)
        self._drawn = _Drawn()
        self._iterator = iter(self.loader)

    def _iterator_made_at(self, origin: _Origin) -> Iterator[Batch]:
        for source, epoch in zip(_epoch_sources(self.loader), origin.set_epochs, strict=True):
            source.set_epoch(epoch)
        if self.loader.persistent_workers:
            # A first iterator draws a seed for its workers, a later one keeps them and draws none.
            if origin.is_first_iterator:
                self.loader._iterator = None
            elif self.loader._iterator is None:
                iter(self.loader)
        restore(origin.streams, self._generators)
        return iter(self.loader)

    def _wind(self, iterator: Iterator[Batch], state: PositionState) -> None:
        drawn, streams_drawn = _Drawn(), set[str]()
        for index in range(state["index"]):
            is_last = index + 1 == state["index"]
            if is_last and state["before_last"] is not None and not self.loader.num_workers:
                restore(state["before_last"], self._generators)
            entry = capture(self._generators)
            try:
                batch = next(iterator)
            except StopIteration:
                raise StageError(
                    f"the loader ended after {index} batches of epoch {state['epoch']}: the checkpoint's "
                    f"position is {state['index']}; use the same data, in a form that can be iterated again"
                ) from None
            if index:
                streams_drawn |= drawn_between(entry, capture(self._generators))
            drawn = drawn.after(batch, None)
        self._require_drawn_in_step(streams_drawn, state)
        expected = (state["checksums"][0], state["checksums"][1])
        # A data set that draws in the main process mixes its draws with the training's: only the last batch,
        # whose streams were kept, comes out the same.
        checked = slice(0, 1) if streams_drawn and not self.loader.num_workers else slice(0, 2)
        if drawn.checksums[checked] != expected[checked]:
            raise StageError(
                f"batches up to {state['index'] - 1} of epoch {state['epoch']} have checksums "
                f"{drawn.checksums}: expected {expected} as in the checkpoint; data or order changed, or a "
                "sampler hides random state (name it in generators=); restore the data, or begin a new epoch"
            )

    def _require_drawn_in_step(self, streams_drawn: set[str], state: PositionState) -> None:
        """A sampler that draws as it goes, ahead of training, is exact only if nothing else drew."""
        is_other_depth = _read_ahead(self.loader) != tuple(state["read_ahead"])
        others = drawn_between(capture(self._generators), state["now"]) if self.loader.num_workers else set()
        mixed = streams_drawn if is_other_depth else streams_drawn & others
        if mixed:
            raise ConfigError(
                f"the sampler draws from the {', '.join(sorted(mixed))} stream while workers read ahead "
                f"{_read_ahead(self.loader)}, checkpoint {tuple(state['read_ahead'])}: its order cannot be "
                "resumed; give the sampler a torch generator of its own and keep the number of workers"
            )

    def _require_same_loader(self, state: PositionState) -> None:
        found, expected = _num_batches(self.loader), state["num_batches"]
        if found != expected:
            raise ConfigError(
                f"the loader has {found} batches an epoch, the checkpoint {expected}: the position would "
                "point elsewhere; use the same data, batch size and drop_last"
            )
        is_iterable = isinstance(self.loader.dataset, IterableDataset)
        if is_iterable and self.loader.num_workers != state["read_ahead"][0]:
            raise ConfigError(
                f"the loader of an iterable data set has {self.loader.num_workers} workers, the checkpoint "
                f"{state['read_ahead'][0]}: workers set its order; use the same number"
            )
        if len(state["now"]["generators"]) != len(self._generators):
            raise ConfigError(
                f"loader and generators= have {len(self._generators)} torch generators, the checkpoint "
                f"{len(state['now']['generators'])}: build the loader as it was"
            )
        was_drawn = is_iterable and self._has_drawn and not self.loader.num_workers
        if was_drawn and iter(self.loader.dataset) is iter(self.loader.dataset):
            raise ConfigError(
                "the iterable data set can be iterated once only, and was: it cannot be wound back; "
                "let __iter__ return a new iterator each time"
            )


@runtime_checkable
class _SetsEpoch(Protocol):
    epoch: int

    def set_epoch(self, epoch: int) -> None: ...


def _sources(loader: DataLoader[Batch]) -> list[object]:
    """What can influence the order: loader, samplers, data set."""
    batch_sampler = loader.batch_sampler
    inner = getattr(batch_sampler, "sampler", None)
    found = [loader, batch_sampler, inner, loader.sampler, loader.dataset]
    return list({id(source): source for source in found if source is not None}.values())


def _epoch_sources(loader: DataLoader[Batch]) -> list[_SetsEpoch]:
    return [source for source in _sources(loader) if isinstance(source, _SetsEpoch)]


def _num_batches(loader: DataLoader[Batch]) -> int | None:
    try:
        return len(loader)
    except TypeError:
        return None


def _read_ahead(loader: DataLoader[Batch]) -> tuple[int, int]:
    return loader.num_workers, loader.prefetch_factor or 0
