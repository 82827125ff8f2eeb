"""Going back to the last good bundle, and forth again where that did not help.

A restore that brings no recovery has shown that the fault is not in the weights. What was learnt since the bundle is
then not thrown away: the moment before the restore, kept as a bundle of its own, comes back. Only where the restored
weights do clearly better on the very data that the fault left do they stay (decision 0017).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

from torch import nn

from premortem.core.errors import StageError
from premortem.stages.train.checkpoint import Bundle
from premortem.stages.train.distributed.peers import PeerLost
from premortem.stages.train.distributed.shards import bare
from premortem.stages.train.guarded.requests import Request, Restore

if TYPE_CHECKING:
    from premortem.run.keeping import Keeping

BEFORE = "the moment before a restore"
"""Who protects the bundle that a restore may be taken back to."""
_NUM = 12
_ERRORS = 2.0
"""Standard errors by which restored weights must do better to stay."""


class Lately:
    """The last training losses (nats) of one stretch of weights, and whether the newest one was a number at all."""

    def __init__(self) -> None:
        self._losses: deque[float] = deque(maxlen=_NUM)
        self._is_blind = False

    def hear(self, loss: float) -> None:
        """One step's loss, applied or not: it speaks of the weights before the step."""
        self._is_blind = not math.isfinite(loss)
        if not self._is_blind:
            self._losses.append(loss)

    def is_clearly_below(self, other: Lately) -> bool:
        """Whether these weights do better than the others did: robust means, two standard errors apart.

        Weights that give numbers are better than weights that give none; where neither does, nothing is clear.
        """
        if not self._losses:
            return False
        if other._is_blind or not other._losses:
            return True
        mine, error = _level(self._losses)
        others, its_error = _level(other._losses)
        return mine < others - _ERRORS * math.hypot(error, its_error)


def _level(losses: deque[float]) -> tuple[float, float]:
    """Median and its standard error, by the median deviation (1.4826: to sigma; 1.2533: median for mean)."""
    middle = median(losses)
    return middle, 1.2533 * 1.4826 * median(abs(x - middle) for x in losses) / math.sqrt(len(losses))


@dataclass(frozen=True, slots=True)
class _Before:
    """The moment before a restore; ``left``: the bundles that were turned away from for it, beyond ``good``."""

    bundle: Bundle
    lately: Lately
    left: list[Bundle]
    good: int


class Restoring:
    """The control that brings the last good bundle back, and takes that back."""

    def __init__(
        self, keeping: Keeping, model: nn.Module, on_restored: Callable[[], None], tell: Callable[[str], None]
    ) -> None:
        self._keeping = keeping
        self._on_restored = on_restored
        self._tell = tell
        self._lately = Lately()
        self._before: _Before | None = None
        self._has_aside = True  # of a process that was killed, perhaps
        self.control: Request = Restore(bare(model), self._go_back, self._take_back).control

    def hear(self, loss: float) -> None:
        """One step's loss."""
        self._lately.hear(loss)

    def let_go(self) -> None:
        """All is well again: the moment before a restore is no longer needed."""
        self._before = None
        if self._has_aside:
            self._has_aside = False
            self._keeping.peers.by_first(lambda: self._keeping.shelf.unprotect(None, BEFORE))

    def _go_back(self) -> dict[str, Any]:
        """To the last good moment; the present one is kept beside it, so far as it can be."""
        keeping, peers = self._keeping, self._keeping.peers
        self.let_go()
        step, load, where = self._good()
        before = self._kept_before(step)
        parts = load()
        left = peers.by_first(lambda: keeping.shelf.abandon(step, "restored to the last good moment"))
        if before is not None:
            self._before = _Before(before, self._lately, left, step)
        self._lately = Lately()
        self._on_restored()
        self._tell(f"restored to step {step}, {where}")
        return parts

    def _good(self) -> tuple[int, Callable[[], dict[str, Any]], str]:
        """Step, loader and place of the newest good moment, verified; raises ``StageError`` where there is none."""
        keeping = self._keeping
        moment, bundle = keeping.moments.good(), None
        try:
            bundle = keeping.good()
        except PeerLost:
            raise
        except StageError:
            if moment is None:
                raise
        if bundle is None or (moment is not None and moment[0] >= bundle.step):
            assert moment is not None
            return moment[0], partial(keeping.put_back, *moment), "from memory"
        return bundle.step, partial(keeping.load, bundle.path), bundle.name

    def _kept_before(self, step: int) -> Bundle | None:
        """A protected bundle of this moment, the newest one if it holds this very step.

        ``None`` where the run stands at ``step`` already, or the disk or the weights (NaN) do not let it be saved.
        """
        keeping, peers = self._keeping, self._keeping.peers
        if keeping.step == step:
            return None
        try:
            bundle = peers.by_first(self._newest_of_now) or keeping.write(keeping.tick)
            self._has_aside = True
            return peers.by_first(lambda: keeping.shelf.protect(bundle.step, BEFORE))
        except PeerLost:
            raise
        except StageError as error:
            self._tell(f"the moment before the restore could not be kept: {error}")
            return None

    def _newest_of_now(self) -> Bundle | None:
        newest = self._keeping.shelf.latest()
        return newest if newest is not None and newest.step == self._keeping.step else None

    def _take_back(self) -> None:
        """The restore did not help: the moment before it comes back, unless the restored weights do clearly better.

        Raises:
            StageError: when its bundle does not verify any more; the restored weights then stay.
        """
        before, self._before = self._before, None
        if before is None:
            return
        keeping, peers = self._keeping, self._keeping.peers
        if self._lately.is_clearly_below(before.lately):
            self._tell("the restore did not help, but the restored weights do better than those before it: they stay")
            return
        keeping.load(before.bundle.path)
        why = "the restore did not help and was taken back"
        peers.by_first(lambda: keeping.shelf.reclaim(before.left, before.good, why))
        self._lately = before.lately
        self._on_restored()
        self._tell(f"{why}: the run goes on with step {keeping.step}")
