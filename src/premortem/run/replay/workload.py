"""A recorded training run as a workload: signals to read, nothing to turn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from premortem.core.action import Control
from premortem.core.signal import Signal
from premortem.registers.schema import Entry
from premortem.run.bind import bind_risks
from premortem.stages.train.guarded.signals import SIGNALS


class ReplayWorkload:
    """Offers every signal that a training run may have; those that the log holds come first in its rows."""

    kind = "training"

    def __init__(self, offered: Iterable[Signal], logged: Iterable[str] = ()) -> None:
        by_name = {signal.name: signal for signal in offered}
        first = [by_name.pop(name) for name in logged]
        self.signals: tuple[Signal, ...] = (*first, *by_name.values())
        self.controls: Mapping[str, Control] = {}
        self.witnesses: Mapping[str, str] = {}
        self.conditions: Mapping[str, Callable[[], bool | None]] = {}


def offered_signals(entries: Iterable[Entry], where: str) -> tuple[Signal, ...]:
    """What a training run measures, and what else the risks of these entries read of one."""
    known = {signal.name: signal for signal in SIGNALS}
    for entry in entries:
        for risk in bind_risks(entry, where):
            if risk.risk.workload == ReplayWorkload.kind:
                for watch in risk.watches:
                    known.setdefault(watch.signal, Signal(watch.signal))
    return tuple(known.values())
