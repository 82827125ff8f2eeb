"""What a risk is: one way to fail, seen by watches and answered by a ladder. Pure data and small factories.

A risk's folder exports ``RISK``. An entry of a register names it, sets its parameters and orders its rungs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from premortem.core.detector import Detector
from premortem.core.ladder import Rung

P = TypeVar("P")


@dataclass(frozen=True, slots=True)
class Watch:
    """One detector on one signal.

    Attributes:
        name: unique in its risk, a noun.
        signal: the signal it reads.
        symptom: what its findings are called; rungs are matched against it.
        detector: makes a fresh detector.
        required: without its signal the register does not bind; otherwise the gap is reported.
    """

    name: str
    signal: str
    symptom: str
    detector: Callable[[], Detector]
    required: bool = True


@dataclass(frozen=True, slots=True)
class Risk(Generic[P]):
    """A risk as its page states it.

    Attributes:
        title: reads well after "the risk that".
        params: a frozen dataclass with a default for every threshold, unit in each name.
        watches: the detectors, given the parameters.
        rungs: every rung the risk knows in its default order, given the parameters.
        contingency: the rung for when the ladder is spent, given the parameters.
        workload: the kind of workload it watches (``training``, ``storage``, …).
    """

    title: str
    workload: str
    params: type[P]
    watches: Callable[[P], tuple[Watch, ...]]
    rungs: Callable[[P], tuple[Rung, ...]]
    contingency: Callable[[P], Rung | None]
    page: str = ""
