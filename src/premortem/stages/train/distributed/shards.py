"""A bundle's weights and optimiser state in shards: each process writes its own by torch.distributed.checkpoint.

DCP knows how to bring shards onto another number of processes, so it writes and reads; it checks nothing that it
reads, so every file stands in the bundle's manifest with size and hash and is checked before DCP may look at it.
What is loaded goes into memory of its own first: a disk that fails in the middle leaves the live weights alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save as save_shards
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from premortem.core.errors import ConfigError, StageError
from premortem.stages.train.checkpoint.files import Beside, FileRecord, record_of
from premortem.stages.train.checkpoint.manifest import Bundle
from premortem.stages.train.checkpoint.tensors import count_nonfinite
from premortem.stages.train.distributed.peers import PeerLost, Peers

State = dict[str, Any]
_METADATA = ".metadata"
_OWN = re.compile(r"__(\d+)_\d+\.distcp")


def is_sharded(model: nn.Module) -> bool:
    """Whether the model's parameters are spread over processes (FSDP2's ``fully_shard``, tensor parallelism)."""
    return any(isinstance(p, DTensor) for p in model.parameters())


def bare(model: nn.Module) -> nn.Module:
    """The model without the wrapper that averages its gradients: its names are those of a run of one process."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def save_sharded(
    peers: Peers, model: nn.Module, optimizer: torch.optim.Optimizer, save: Callable[[Beside], Bundle]
) -> Bundle:
    """Save one bundle together. ``save`` is called in the first process and calls back with the folder to write into.

    Raises:
        StageError: in every process, when one could not write its shards or holds values that are not finite.
    """
    state = _state(model, optimizer)
    turn = _Turn(peers, state)

    def first() -> Bundle:
        try:
            return save(Beside(peers.size * _nbytes(state), turn.lead))
        finally:
            turn.call_off()

    if not peers.is_first:
        turn.follow()
    return peers.by_first(first)


def load_sharded(path: Path, peers: Peers, model: nn.Module, optimizer: torch.optim.Optimizer) -> State:
    """Read shards whose hashes were checked; nothing live is touched. Works on another number of processes, too.

    Returns:
        ``{"model": …, "optimizer": …}`` in this process's sharding, for :func:`put_back_sharded`.

    Raises:
        StageError: when DCP cannot read them.
        ConfigError: when they are of another model or optimiser.
    """
    state = {name: _empty_like(tree) for name, tree in _state(model, optimizer).items()}
    try:
        load(state, checkpoint_id=path, process_group=peers.group, no_dist=peers.is_alone)
    except CheckpointException as error:
        why = " ".join(str(next(iter(error.failures.values()), error)).split())
        raise _load_error(path, why) from error
    except (ValueError, KeyError) as error:
        raise _load_error(path, str(error)) from error
    except RuntimeError as error:
        raise peers.explain(error) or _load_error(path, str(error)) from error
    return state


def put_back_sharded(state: State, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put into model and optimiser what :func:`load_sharded` read."""
    set_model_state_dict(model, state["model"])
    set_optimizer_state_dict(model, optimizer, state["optimizer"])


class _Turn:
    """Writes shards in step with the first process, which alone knows the folder; it may also call the turn off."""

    def __init__(self, peers: Peers, state: State) -> None:
        self._peers, self._state = peers, state
        self._is_over = False

    def lead(self, folder: Path) -> tuple[FileRecord, ...]:
        self._is_over = True
        self._peers.first(str(folder))
        return self._write(folder)

    def call_off(self) -> None:
        """The first process failed before it came to the shards: the others must not wait for a folder."""
        if not self._is_over:
            self._is_over = True
            self._peers.first(None)

    def follow(self) -> None:
        folder = self._peers.first(None)
        if folder is not None:
            try:
                self._write(Path(folder))
            except PeerLost:
                raise
            except Exception:
                return  # the first process failed at the same place and says so to all

    def _write(self, folder: Path) -> tuple[FileRecord, ...]:
        bad = self._peers.everyone(_nonfinite(self._state))
        named = next(((rank, name) for rank, name in enumerate(bad) if name), None)
        if named is not None:
            raise StageError(
                f"process {named[0]}: {named[1]!r} holds NaN or infinite values, expected finite ones; "
                "nothing was saved: restore the last good bundle"
            )
        try:
            writer = FileSystemWriter(folder, single_file_per_rank=True, sync_files=True)
            save_shards(
                self._state, storage_writer=writer, process_group=self._peers.group, no_dist=self._peers.is_alone
            )
        except CheckpointException as error:
            why = " ".join(str(next(iter(error.failures.values()), error)).split())
            raise StageError(
                f"{folder.parent}: shards were not written ({why}); existing bundles are untouched"
            ) from error
        except RuntimeError as error:
            raise self._peers.explain(error) or error from error
        mine = self._peers.by_all(lambda: [record_of(folder / name) for name in _own(folder, self._peers)])
        return tuple(record for records in self._peers.everyone(mine) for record in records)


def _own(folder: Path, peers: Peers) -> list[str]:
    names = sorted(os.listdir(folder))
    own = [n for n in names if (match := _OWN.fullmatch(n)) is not None and int(match[1]) == peers.rank]
    return [*own, _METADATA] if peers.is_first else own


def _state(model: nn.Module, optimizer: torch.optim.Optimizer) -> State:
    return {"model": get_model_state_dict(model), "optimizer": get_optimizer_state_dict(model, optimizer)}


def _leaves(tree: object, name: str = "") -> list[tuple[str, Tensor]]:
    if isinstance(tree, Tensor):
        return [(name, tree.to_local() if isinstance(tree, DTensor) else tree)]
    if isinstance(tree, Mapping):
        return [leaf for key, value in tree.items() for leaf in _leaves(value, f"{name}.{key}".lstrip("."))]
    if isinstance(tree, list | tuple):
        return [leaf for index, value in enumerate(tree) for leaf in _leaves(value, f"{name}.{index}")]
    return []


def _nonfinite(state: State) -> str:
    return next((name for name, tensor in _leaves(state) if count_nonfinite(tensor)), "")


def _nbytes(state: State) -> int:
    return sum(tensor.numel() * tensor.element_size() for _, tensor in _leaves(state))


def _empty_like(tree: Any) -> Any:
    if isinstance(tree, Tensor):
        return torch.empty_like(tree)
    if isinstance(tree, dict):
        return {key: _empty_like(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_empty_like(value) for value in tree]
    return tree


def _load_error(path: Path, why: str) -> ConfigError | StageError:
    if "Missing key" in why or "Size mismatch" in why or "size mismatch" in why.lower():
        return ConfigError(
            f"{path}: its shards do not fit this run's model and optimiser ({why[:200]}); "
            "build them as they were, or give another folder"
        )
    return StageError(
        f"{path}: its shards cannot be read ({why[:200]}), expected those of a bundle; use another bundle"
    )
