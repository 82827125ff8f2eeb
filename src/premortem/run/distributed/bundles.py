"""The bundles of several processes: the first one writes what all share, each writes its shards, all read alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from premortem.core.errors import ConfigError, StageError
from premortem.stages.train.checkpoint import Bundle, Shelf, load_bundle
from premortem.stages.train.checkpoint.files import check_files
from premortem.stages.train.checkpoint.load import read_manifest
from premortem.stages.train.checkpoint.lock import LOCK
from premortem.stages.train.distributed.peers import Peers
from premortem.stages.train.distributed.shards import (
    State,
    bare,
    is_sharded,
    load_sharded,
    put_back_sharded,
    save_sharded,
)
from premortem.stages.train.guarded.parts import Parts
from premortem.stages.train.guarded.requests import digest

EACH = "ranks"
"""The part that holds what every process has of its own: random streams, position in the data."""


class SharedBundles:
    """Saves and loads what the processes of one run have in common, in step with each other."""

    def __init__(self, peers: Peers, parts: Parts, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.peers = self._peers = peers
        self.parts = self._parts = parts
        self._model = bare(model)
        self._optimizer = optimizer
        self._is_sharded = is_sharded(model)

    def open(self, folder: Path, keep: int) -> Shelf:
        """The folder's shelf: the first process owns it, the others read.

        Raises:
            ConfigError: when another run has the folder, or the processes do not see the same one.
            StageError: when it cannot be used.
        """
        owned: list[Shelf] = []
        self._peers.by_first(lambda: owned.append(Shelf(folder, keep)))
        if owned:
            shelf = owned[0]
        else:
            shelf = Shelf(folder, keep, own=False)
        try:
            self._peers.by_all(lambda: _require_shared(folder))
        except BaseException:
            shelf.close()
            raise
        return shelf

    def save(self, shelf: Shelf, step: int, common: dict[str, object], own: dict[str, object]) -> Bundle:
        """Write a bundle of this moment: ``common`` is the same everywhere, ``own`` each process's.

        Raises:
            StageError: in every process, when one of them could not do its share.
        """
        if self._peers.is_alone:
            return shelf.save(step, {**self._parts.gather(), **common, **own})
        each = self._peers.everyone(own)
        extra = {**common, EACH: {str(rank): its for rank, its in enumerate(each)}}
        if not self._is_sharded:
            return self._peers.by_first(lambda: shelf.save(step, {**self._parts.gather(), **extra}))
        parts = {**self._parts.gather(weights=False), **extra}
        return save_sharded(
            self._peers, self._model, self._optimizer, lambda beside: shelf.save(step, parts, beside=beside)
        )

    def load(self, path: Path) -> dict[str, Any]:
        """Verify everything in every process, then put everything back.

        Returns:
            All parts; ``random`` and ``position`` are this process's, or missing where the bundle has none for it.

        Raises:
            StageError: in every process, when one cannot read or verify its share, or they end with other weights.
            ConfigError: when the bundle is of another model or optimiser.
        """
        peers = self._peers
        parts = peers.by_all(lambda: self._verified(path))
        shards: State | None = parts.pop("shards", None)
        if shards is None and self._is_sharded:
            raise ConfigError(
                f"{path}: holds whole weights, expected shards for a model that is spread over processes; "
                "resume it as it was saved, or load the weights before fully_shard and give another folder"
            )
        if shards is not None:
            loaded = load_sharded(path, peers, self._model, self._optimizer)
            peers.by_all(lambda: put_back_sharded(loaded, self._model, self._optimizer))
            parts["model"] = loaded["model"]
        peers.by_all(lambda: self._parts.put_back(parts, weights=shards is None))
        if shards is None and not peers.is_alone:
            found = peers.everyone(digest(self._model.state_dict()))
            if len(set(found)) > 1:
                raise StageError(f"{path}: was loaded, and the processes hold different weights; start the job again")
        each = parts.pop(EACH, None)
        if each is not None and len(each) == peers.size:
            parts |= each[str(peers.rank)]
        elif not peers.is_alone:  # of one process, or of another number: its position is nobody's here
            parts.pop("random", None)
            parts.pop("position", None)
        return parts

    def _verified(self, path: Path) -> dict[str, Any]:
        """The parts, checked; of the shards each process checks its share, all together every byte."""
        parts: dict[str, Any] = load_bundle(path)
        files = read_manifest(path).files
        if files:
            check_files(path, files[self._peers.rank :: self._peers.size])
            parts["shards"] = {}
        return parts


def _require_shared(folder: Path) -> None:
    if not (folder / LOCK).exists():
        raise ConfigError(
            f"{folder}: this process does not see what the first one wrote there, expected one folder for all; "
            "give a folder on a file system that all of them share"
        )
