"""Which batches a run draws: where it stands in its data, and which of them it never draws again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch.utils.data import DataLoader

from premortem.stages.train.position import PositionedBatches, PositionState

Place = tuple[int, int]
"""Epoch and index in the epoch."""


class Draws:
    """Follows the batches from the loader to the step that uses them, micro-batches included."""

    def __init__(self) -> None:
        self.position: PositionedBatches[Any] | None = None
        self.skip: set[Place] = set()
        """What the ladder asked to skip; it outlives every rollback."""
        self.bad: set[Place] = set()
        """Batches whose gradient never reached the weights."""
        self._saved: PositionState | None = None
        self._used: list[Place] = []
        self._first_epoch = 0

    @property
    def epoch(self) -> int:
        """The epoch in which the next batch is drawn, from 0."""
        if self.position is not None:
            return self.position.epoch
        return self._first_epoch if self._saved is None else self._saved["epoch"]

    def of(self, loader: DataLoader[Any]) -> PositionedBatches[Any]:
        """The loader with its position; one that replaces another goes on with the epochs and the skips.

        Raises:
            ConfigError: when the loader cannot give the batches of the checkpoint.
            StageError: when the data changed since.
        """
        last = self.position
        if last is not None and last.loader is loader:
            return last
        now: PositionedBatches[Any] = PositionedBatches(loader, skip=self.skip)
        now.epoch = self._first_epoch
        if last is not None:
            now.epoch = last.epoch + bool(last.index)
            now.skip |= last.skip
        if self._saved is not None:
            now.load_state_dict(self._saved)
            self._saved = None
        self.position = now
        return now

    def used(self) -> None:
        """The batch drawn last goes into the present step."""
        if self.position is not None and self.position.index:
            self._used.append((self.position.epoch, self.position.index - 1))

    def stepped(self, *, reached: bool) -> None:
        """The step is over; ``reached``: its gradient reached the weights, or failed to for no fault of the data."""
        if not reached:
            self.bad.update(self._used)
        self._used.clear()

    def skip_bad(self) -> None:
        """Never draw the bad batches again."""
        self.skip |= self.bad
        if self.position is not None:
            self.position.skip |= self.bad

    @property
    def are_skipped(self) -> bool:
        """Whether every bad batch is on the skip list of the loader itself."""
        return self.position is None or self.bad <= self.position.skip

    def state(self) -> list[list[int]]:
        """The skip list, as plain data."""
        return [[epoch, index] for epoch, index in sorted(self.skip)]

    def load(self, skip: Iterable[Iterable[int]]) -> None:
        """Take over a skip list; it is added to, never replaced."""
        for epoch, index in skip:
            self.skip.add((epoch, index))
        if self.position is not None:
            self.position.skip |= self.skip

    def position_state(self) -> PositionState | None:
        """What a bundle keeps; before the first batch of a resumed run, what it resumed from."""
        return self._saved if self.position is None else self.position.state_dict()

    def resume_at(self, saved: PositionState | None, *, epoch: int = 0) -> None:
        """Go on there with the next loader that is asked for; without a position, at the beginning of an epoch."""
        self._saved, self._first_epoch = saved, epoch
