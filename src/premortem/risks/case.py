"""What a risk's ``drill.py`` exports: which real fault, in which real workload, to which bounds.

A drill names its cases in ``CASES``; it runs nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from premortem.core.action import Control
from premortem.core.drill import Bounds
from premortem.core.signal import Signal
from premortem.core.workload import Workload
from premortem.faults.fault import Fault
from premortem.registers.schema import Scalar
from premortem.stages.train.trainable import Trainable


@dataclass(frozen=True, slots=True, kw_only=True)
class Offers:
    """What a run has beyond model and optimiser.

    Attributes:
        state: what rolls back with the weights, by name; with ``commit`` it is told of each step that was kept.
        signals: the run's own.
        measured: their values after a step's loss, by name.
        controls: the run's own, by name.
    """

    state: Mapping[str, object] = field(default_factory=dict)
    signals: tuple[Signal, ...] = ()
    measured: Callable[[], Mapping[str, float]] = dict
    controls: Mapping[str, Control] = field(default_factory=dict)


def no_offers(run: Trainable) -> Offers:
    """A run that is model, optimiser and what :class:`Trainable` names."""
    return Offers()


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingCase:
    """A fault in a training run.

    Attributes:
        build: the seeded run.
        fault: made for the run and its checkpoint folder; one with ``hand_out`` gets every batch.
        at: the optimiser step at which the fault comes.
        lasts: ticks after which the unguarded run is rid of it; guarded it goes when recovery is judged, and at
            the latest then.
        options: for ``Guard.training``.
        params: of risks, by risk id, where the drill's small scale needs other thresholds than the register's.
        place: makes the folder for checkpoints, where a case needs a special one, such as a small file system.
        plain_saves: the unguarded run saves as anyone would, ``torch.save`` to a new file, every so many steps.
        offers: of the run that ``build`` made.
        learns_curve: a healthy run of another seed is recorded first, as the baseline curve of slow convergence.
        confined: each arm runs in a process of its own, in a memory group that the drill owns, so that what kills it
            kills nothing else; ``build``, ``fault``, ``place`` and ``offers`` must then be functions of a module.
    """

    name: str
    build: Callable[[int], Trainable]
    fault: Callable[[Trainable, Path], Fault]
    at: int
    lasts: float
    bounds: Bounds
    options: Mapping[str, object] = field(default_factory=dict)
    params: Mapping[str, Mapping[str, Scalar]] = field(default_factory=dict)
    place: Callable[[], AbstractContextManager[Path]] | None = None
    plain_saves: int = 0
    offers: Callable[[Trainable], Offers] = no_offers
    learns_curve: bool = False
    confined: bool = False
    entries: tuple[str, ...] = ()
    """Only for these entries; for all that name the risk when empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedCase:
    """A fault in any workload of one's own, driven a tick at a time.

    Attributes:
        build: the seeded workload, its tick and its outcome.
        num_ticks: how long each arm runs.
        confined: as for :class:`TrainingCase`.
        plain: the same work as anyone would write it without premortem, for the arms without the guard, where what
            guards is part of the work itself; ``digest`` of both must then be of the work.
        params: of risks, by risk id, where the drill's small scale needs other thresholds than the register's.
    """

    name: str
    build: Callable[[int], Ticking]
    fault: Callable[[Ticking], Fault]
    at: int
    lasts: float
    num_ticks: int
    bounds: Bounds
    confined: bool = False
    plain: Callable[[int], Ticking] | None = None
    params: Mapping[str, Mapping[str, Scalar]] = field(default_factory=dict)
    entries: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class Ticking:
    """A workload that can be advanced by hand.

    Attributes:
        workload: what is watched.
        advance: one tick; returns its observation row.
        outcome: what the owner got, asked once after the last tick.
        subject: for the fault's factory.
        digest: of what must be the same with the guard and without, where rows hold measured times or memory;
            the rows themselves where it is ``None``.
        close: what is to be done when the arm is over, however it ended.
    """

    workload: Workload
    advance: Callable[[int], list[float | None]]
    outcome: Callable[[], float]
    subject: object = None
    digest: Callable[[], str] | None = None
    close: Callable[[], None] | None = None


Case = TrainingCase | WatchedCase
