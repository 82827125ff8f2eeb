"""The processes of one training, and how they come to one mind.

Everything here is small and goes over the host: a gloo group of the guard's own, so that the training's own group
(NCCL, say) is neither used nor disturbed. Every process must make the same calls in the same order. A process that
is gone or silent ends the others in bounded time, with one clear line: at once where its connection breaks, else
after the timeout of the training's own process group.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

from premortem.core.errors import ConfigError, PremortemError, StageError

T = TypeVar("T")

PATIENCE = timedelta(minutes=10)
"""For a process that is silent, where the training's own timeout cannot be read."""
_SIGNS = ("gloo", "NCCL", "onnection closed by peer", "onnection reset by peer", "caused pair closure", "ProcessGroup")


class PeerLost(StageError):  # noqa: N818 - it says what happened
    """Another process is gone or does not answer: this one cannot go on alone."""


class Peers:
    """This process alone, which agrees with itself; the base of :class:`Group`."""

    rank = 0
    size = 1
    group: dist.ProcessGroup | None = None

    @property
    def is_first(self) -> bool:
        """Whether this process writes what people read: ledger, bundles, marks."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether there is nobody to agree with."""
        return self.size == 1

    def everyone(self, value: T) -> list[T]:
        """What each process gives, in the order of ranks."""
        return [value]

    def numbers(self, values: list[float]) -> list[list[float]]:
        """As :meth:`everyone`, for float64 numbers, equally many in each process: the quick way, once a step."""
        return [values]

    def first(self, value: T | None) -> T | None:
        """What the first process gives."""
        return value

    def by_first(self, act: Callable[[], T]) -> T:
        """Let the first process act; all get what it gave, or raise what it raised."""
        return act()

    def by_all(self, act: Callable[[], T]) -> T:
        """Let each process act for itself; where one fails, all raise."""
        return act()

    def judge(self, loss: float, norm: float) -> tuple[float, float]:
        """Loss and gradient norm of a step as all processes see them, before any of them may take it."""
        return loss, norm

    def explain(self, error: BaseException | None) -> PeerLost | None:
        """The one line for an error that a lost process caused in the training's own communication, else ``None``."""
        return None

    def close(self) -> None:
        """Let the guard's own group go."""


ALONE = Peers()


class Group(Peers):
    """All processes of ``torch.distributed``'s default group. Made by all of them at the same place.

    Raises:
        PeerLost: by every method, when a process is gone, or silent for longer than ``patience``.
    """

    def __init__(self, patience: timedelta) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.patience = patience
        with self._bounded():
            self.group = dist.new_group(backend="gloo", timeout=patience)

    def everyone(self, value: T) -> list[T]:
        """What each process gives (anything that can be pickled), in the order of ranks."""
        given: list[Any] = [None] * self.size
        with self._bounded():
            dist.all_gather_object(given, value, group=self.group)
        return cast("list[T]", given)

    def numbers(self, values: list[float]) -> list[list[float]]:
        """What each process gives, in the order of ranks; NaN and infinities pass through."""
        mine = torch.tensor(values, dtype=torch.float64)
        given = [torch.empty_like(mine) for _ in range(self.size)]
        with self._bounded():
            dist.all_gather(given, mine, group=self.group)
        return [cast("list[float]", row.tolist()) for row in given]

    def first(self, value: T | None) -> T | None:
        """What the first process gives; what others give is ignored."""
        given = [value]
        with self._bounded():
            dist.broadcast_object_list(given, group_src=0, group=self.group)
        return given[0]

    def by_first(self, act: Callable[[], T]) -> T:
        """Let the first process act; all get what it gave, or raise what it raised (ConfigError, else StageError)."""
        value: T | None = None
        error: Exception | None = None
        if self.is_first:
            try:
                value = act()
            except PeerLost:
                raise
            except Exception as raised:
                error = raised
        said = self.first((value, error is not None, isinstance(error, ConfigError), _text(error)))
        if error is not None:
            raise error
        assert said is not None
        given, failed, is_config, text = said
        if failed:
            raise ConfigError(text) if is_config else StageError(text)
        return cast("T", given)

    def by_all(self, act: Callable[[], T]) -> T:
        """Let each process act for itself; where one fails, all raise (ConfigError, else StageError), naming it."""
        value: T | None = None
        error: Exception | None = None
        try:
            value = act()
        except PeerLost:
            raise
        except Exception as raised:
            error = raised
        said = self.everyone(None if error is None else (isinstance(error, ConfigError), _text(error)))
        if error is not None:
            raise error
        for rank, fault in enumerate(said):
            if fault is not None:
                is_config, text = fault
                raise (ConfigError if is_config else StageError)(f"process {rank} of {self.size}: {text}")
        return cast("T", value)

    def judge(self, loss: float, norm: float) -> tuple[float, float]:
        """The mean loss and the worst gradient norm over all processes; not finite where one process's is not.

        The norm is the same everywhere already, because gradients are averaged or sharded; that is not relied on.
        """
        given = self.numbers([loss, norm])
        losses, norms = [one[0] for one in given], [one[1] for one in given]
        mean = mean_of(losses) if all(map(math.isfinite, losses)) else _bad(losses)
        return mean, max(norms) if all(map(math.isfinite, norms)) else _bad(norms)

    def explain(self, error: BaseException | None) -> PeerLost | None:
        """The one line for an error that a lost process caused in the training's own communication, else ``None``."""
        if isinstance(error, PremortemError) or not isinstance(error, RuntimeError):
            return None
        if isinstance(error, dist.DistError) or any(sign in str(error) for sign in _SIGNS):
            return self._lost(error)
        return None

    def close(self) -> None:
        """Let the guard's own group go; where a process is lost there is nothing left to close."""
        group, self.group = self.group, None
        if group is not None:
            with contextlib.suppress(Exception):
                dist.destroy_process_group(group)

    @contextlib.contextmanager
    def _bounded(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise self._lost(error) from error

    def _lost(self, error: BaseException) -> PeerLost:
        why = " ".join(str(error).split())
        silent = f"{self.patience.total_seconds():g} s"
        return PeerLost(
            f"process {self.rank} of {self.size}: another process is gone, or silent for {silent} ({why[:120]}), "
            "expected all of them at every step; start the job again: every process goes on from the newest bundle"
        )


def find_peers() -> Peers:
    """The processes of the default group, where there are several; called by all of them at the same place.

    Raises:
        PeerLost: when not all of them come.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return ALONE
    return Group(_timeout())


def unheard_of() -> str:
    """Why processes that were started together cannot agree, or nothing."""
    size = os.environ.get("WORLD_SIZE", "1")
    if size in ("", "1") or (dist.is_available() and dist.is_initialized()):
        return ""
    return (
        f"WORLD_SIZE is {size}, but torch.distributed had no process group when the run was made: each process decides "
        "for itself; call init_process_group before guard.training"
    )


def mean_of(values: Sequence[float]) -> float:
    """The mean of finite values; finite too, however large they are, as it lies between them."""
    try:
        mean = math.fsum(value / len(values) for value in values)
    except OverflowError:  # the rounded shares of the largest numbers there are add up to more
        return max(values, key=abs)
    return min(max(values), max(min(values), mean))


def _bad(values: list[float]) -> float:
    return math.nan if any(map(math.isnan, values)) else next(v for v in values if not math.isfinite(v))


def _timeout() -> timedelta:
    """That of the training's own group: it stands for how long its owner is ready to wait."""
    world = dist.group.WORLD
    for device in ("cpu", "cuda"):
        with contextlib.suppress(Exception):
            return cast("timedelta", world._get_backend(torch.device(device)).options._timeout)  # type: ignore[union-attr]
    return PATIENCE


def _text(error: Exception | None) -> str:
    if error is None:
        return ""
    return str(error) if isinstance(error, PremortemError) else f"{type(error).__name__}: {error}"
