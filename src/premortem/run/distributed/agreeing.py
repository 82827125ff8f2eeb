"""Several kernels that decide alike: the kernel is a pure state machine, so what goes in is agreed, and nothing else.

Each process runs the same engine. Before it observes, the row is agreed (:class:`Agreement`); before it hears of an
outcome, the outcome is (:class:`AgreeingDriver`). The clock is the first process's. Skips, factors, restores and
stops then happen in all processes or in none, with no leader that could be lost in the middle of a decision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from premortem.core.action import Outcome
from premortem.core.command import Command
from premortem.core.errors import BugError
from premortem.core.signal import Signal
from premortem.run.driver import Driver
from premortem.stages.train.distributed.peers import Peers, mean_of

Row = list[float | None]
_MEAN = "loss"
_HEAD = 3


@dataclass(frozen=True, slots=True)
class Agreed:
    """What all processes go by in this step. ``missing_in_some``: signals that only some processes could measure."""

    row: Row
    seconds: float
    is_due: bool
    is_asked: bool
    missing_in_some: tuple[str, ...]


class Agreement:
    """Makes one row of many: the loss is the mean, anything else the worst, and what one lacks all lack."""

    def __init__(self, peers: Peers, signals: Sequence[Signal]) -> None:
        self._peers = peers
        self._signals = signals

    def of(self, row: Row, seconds: float, *, is_due: bool, is_asked: bool) -> Agreed:
        """The step as all processes see it.

        Args:
            row: this process's, in slot order.
            seconds: this process's clock; the first one's is used.
            is_due: whether a bundle is due; the first one decides.
            is_asked: whether SIGTERM came; one process suffices.

        Raises:
            PeerLost: when a process is gone.
        """
        if self._peers.is_alone:
            return Agreed(row, seconds, is_due, is_asked, ())
        mine = [seconds, float(is_due), float(is_asked)]
        mine += [math.nan if value is None else value for value in row]
        mine += [float(value is None) for value in row]
        given = self._peers.numbers(mine)
        end = _HEAD + len(row)
        agreed: Row = []
        missing = []
        for slot, signal in enumerate(self._signals):
            lacking = [bool(one[end + slot]) for one in given]
            if any(lacking):
                agreed.append(None)
                missing += [] if all(lacking) else [signal.name]
            else:
                agreed.append(_one(signal, [one[_HEAD + slot] for one in given]))
        asked = any(one[2] for one in given)
        return Agreed(agreed, given[0][0], bool(given[0][1]), asked, tuple(missing))


def _one(signal: Signal, values: list[float]) -> float:
    if any(math.isnan(value) for value in values):
        return math.nan
    if signal.name == _MEAN:
        return mean_of(values) if all(map(math.isfinite, values)) else max(values)
    return max(values) if signal.higher_is_worse else min(values)


class SharedClock:
    """The first process's clock, as it was when the processes last agreed; before that, 0."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        """Seconds, as the driver's clock gives them."""
        return self.seconds


class AgreeingDriver(Driver):
    """Carries a command out in each process, and tells every kernel the one outcome that all of them had together."""

    def __init__(self, *given: Any, peers: Peers, **named: Any) -> None:
        super().__init__(*given, **named)
        self._peers = peers

    def _do(self, command: Command) -> Outcome:
        outcome = super()._do(command)
        if self._peers.is_alone:
            return outcome
        asked = (command.verb, command.target.control, command.target.condition)
        given = self._peers.everyone((asked, outcome))
        if any(other != asked for other, _ in given):
            what = "; ".join(f"process {rank}: {' '.join(other)}" for rank, (other, _) in enumerate(given))
            raise BugError(f"the processes were asked for different things ({what}), expected one; report this")
        return together([outcome for _, outcome in given])


def together(outcomes: Sequence[Outcome]) -> Outcome:
    """One outcome of many: carried out only where all did, failed where one failed, unknown where one is unknown."""
    for ok in (False, None):
        for rank, outcome in enumerate(outcomes):
            if outcome.ok is ok:
                return Outcome(ok, None, f"process {rank}: {outcome.detail}")
    first = outcomes[0]
    for rank, outcome in enumerate(outcomes):
        if outcome.value != first.value:
            found = f"{outcome.value!r}, process 0 {first.value!r}"
            return Outcome(False, None, f"process {rank} reads {found}: they must be the same")
    return first
