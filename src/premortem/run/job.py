"""The main job of ``premortem run``: a real training run on real input, with a real fault on the way.

A small language model learns text of the Python standard library. In mid-run a fault of the divergence drill
comes; the guard sees it, climbs its ladder and verifies each rung. A twin with the same seed and the same fault,
but no guard, shows what the fault alone does: only that arm shows causation.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, get_args

from premortem.core.errors import ConfigError
from premortem.core.evidence import Event, Plain, Record
from premortem.ledger.ledger import Ledger
from premortem.run.discover import find_risk
from premortem.run.evidence import honour
from premortem.run.guard import Guard, Options
from premortem.run.suggest import closest
from premortem.run.ticking import Disturbed

if TYPE_CHECKING:
    from premortem.risks.case import TrainingCase
    from premortem.run.training import GuardedTraining
    from premortem.stages.train.trainable import Trainable

FaultName = Literal["none", "learning-rate", "poison"]
FAULTS: tuple[str, ...] = get_args(FaultName)
JOBS = ("train",)
_CASES: dict[str, str] = {"learning-rate": "learning rate × 100", "poison": "poisoned batch"}
_RISK = "train/divergence"
_PATIENCE = 3
"""The guarded run may repeat steps, up to so many times its length."""
_ASK_EVERY = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to run. ``register``: a file or a built-in's name. ``twin``: run the unguarded twin afterwards."""

    folder: Path
    fault: str = "learning-rate"
    seed: int = 0
    register: str = "default"
    guarded: bool = True
    twin: bool = True

    def __post_init__(self) -> None:
        if self.fault not in FAULTS:
            raise ConfigError(
                f"--fault: found {self.fault!r}, expected one of {', '.join(FAULTS)}{closest(self.fault, FAULTS)}"
            )


@dataclass(frozen=True, slots=True)
class Moment:
    """One tick of an arm. ``loss`` in nats; ``grad_norm`` before clipping."""

    arm: str
    tick: int
    step: int
    num_steps: int
    loss: float
    grad_norm: float | None


@dataclass(frozen=True, slots=True)
class Result:
    """What the arms came to. Outcomes are mean losses in nats over all training windows; lower is better."""

    run: str
    num_steps: int
    ticks: int
    fault_at: int | None
    guarded: float | None
    unguarded: float | None
    stopped: str
    seconds: float


@dataclass(slots=True)
class Audience:
    """Who is told as it happens."""

    watch: Callable[[Moment], None]
    hear: Callable[[Record], None]


def find_job(pipeline: str) -> str:
    """The built-in job of this name; raises ``ConfigError`` for another, with the closest match."""
    if pipeline not in JOBS:
        raise ConfigError(
            f"PIPELINE: found {pipeline!r}, expected one of {', '.join(JOBS)}{closest(pipeline, JOBS)}; "
            "a training run of your own is guarded by premortem.Guard().training(...)"
        )
    return pipeline


def run_job(job: Job, ledger_path: Path, audience: Audience) -> Result:
    """Run the arms that the job asks for; the evidence is in the ledger.

    Raises:
        ConfigError: a register that does not bind; a folder that another run holds.
        StageError: a ledger that cannot be opened.
    """
    began = time.monotonic()
    guard = Guard(job.register, ledger=ledger_path)
    case = _case(job.fault)
    home = _fresh_folder(job.folder)
    guarded = _Guarded(job, case, audience)
    twin = _Twin(job, case, audience)
    with _one_thread():
        if job.guarded:
            guarded.run(guard, home)
        if job.twin or not job.guarded:
            twin.run(ledger_path, str(home.resolve()))
    return Result(
        run=str(home.resolve()), num_steps=guarded.num_steps or twin.num_steps, ticks=guarded.ticks,
        fault_at=guarded.fault_at, guarded=guarded.outcome, unguarded=twin.outcome, stopped=guarded.stopped,
        seconds=time.monotonic() - began,
    )  # fmt: skip


@contextmanager
def _one_thread() -> Iterator[None]:
    """So small a model is slower with more; and the arms add up in the same order, so they can be compared."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Guarded:
    """The guarded arm. The fault stays on until recovery is judged, then goes, and the peel is tested."""

    def __init__(self, job: Job, case: TrainingCase, audience: Audience) -> None:
        self._job, self._case, self._audience = job, case, audience
        self.outcome: float | None = None
        self.num_steps = self.ticks = 0
        self.fault_at: int | None = None
        self.stopped = ""
        self._recovered = False

    def run(self, guard: Guard, home: Path) -> None:
        """Train to the end, or to where the guard stops it."""
        trainable = self._case.build(self._job.seed)
        self.num_steps = trainable.num_steps
        disturbed = Disturbed(None if self._job.fault == "none" else self._case.fault(trainable, home))
        options = Options(max_norm=trainable.max_norm, save_every=25)
        with guard.training(
            trainable.model, trainable.optimizer, scheduler=trainable.scheduler, ema=trainable.ema,
            gradient_filter=trainable.gradient_filter, checkpoints=home, options=options,
        ) as run:  # fmt: skip
            run.driver.listen(self._hear)
            for gap in run.engine.plan.gaps:
                self._audience.hear(Record("unwatched", "", None, 0, 0.0, {"what": gap}))
            try:
                self._loop(run, trainable, disturbed)
            finally:
                self._take_off(run, disturbed)
            self.outcome, self.ticks, self.stopped = trainable.outcome(), run.ticks, run.stop_reason
            _note(run, "run", what="outcome", value=_plain(self.outcome), unit="nats", arm="guarded")

    def _loop(self, run: GuardedTraining, trainable: Trainable, disturbed: Disturbed) -> None:
        while run.step_number < self.num_steps and not run.stopped:
            for batch in run.batches(trainable.loader):
                if run.step_number >= self.num_steps or run.ticks >= _PATIENCE * self.num_steps:
                    return
                self._time_fault(run, disturbed)
                stepped = run.step(trainable.loss, batch)
                if stepped is not None:
                    self._tell(run, stepped.loss, stepped.grad_norm)
                if run.ticks % _ASK_EVERY == 0:
                    honour(run)

    def _time_fault(self, run: GuardedTraining, disturbed: Disturbed) -> None:
        if disturbed.fault is None:
            return
        if self.fault_at is None and run.step_number == self._case.at:
            self.fault_at = run.ticks + 1
            disturbed.put_on()
            _note(run, "fault", what="put on", detail=disturbed.fault.name)
        elif self.fault_at is not None and (self._recovered or run.ticks >= self.fault_at + self._case.lasts):
            self._take_off(run, disturbed)

    def _take_off(self, run: GuardedTraining, disturbed: Disturbed) -> None:
        if not disturbed.is_on:
            return
        disturbed.take_off()
        for what, evidence in (("observed", disturbed.observed), ("gone", disturbed.gone)):
            assert evidence is not None
            told = what if evidence.holds else f"NOT {what}" if evidence.holds is False else f"{what}: unknown"
            _note(run, "fault", what=told, detail=evidence.detail)

    def _tell(self, run: GuardedTraining, loss: float, grad_norm: float | None) -> None:
        self._audience.watch(Moment("guarded", run.ticks, run.step_number, self.num_steps, loss, grad_norm))

    def _hear(self, record: Record) -> None:
        self._recovered = self._recovered or record.event == "recovered"
        self._audience.hear(record)


class _Twin:
    """The unguarded arm: plain torch, written out, with the same seed and the same fault for as long."""

    def __init__(self, job: Job, case: TrainingCase, audience: Audience) -> None:
        self._job, self._case, self._audience = job, case, audience
        self.outcome: float | None = None
        self.num_steps = 0

    def run(self, ledger_path: Path, of_run: str) -> None:
        """Train to the end; the curve goes to the ledger beside the guarded one's."""
        trainable = self._case.build(self._job.seed)
        self.num_steps = trainable.num_steps
        disturbed = Disturbed(None if self._job.fault == "none" else self._case.fault(trainable, ledger_path.parent))
        name = f"{of_run}/unguarded"
        ledger = Ledger.open(ledger_path, run=name)
        try:
            self._loop(trainable, disturbed, ledger)
            self.outcome = trainable.outcome()
        finally:
            disturbed.take_off()
            ledger.close()
        self._keep(ledger_path, of_run, name)

    def _loop(self, trainable: Trainable, disturbed: Disturbed, ledger: Ledger) -> None:
        for step, batch in enumerate(trainable.batches()):
            if step == self._case.at:
                disturbed.put_on()
            elif step >= self._case.at + self._case.lasts:
                disturbed.take_off()
            if step >= self.num_steps:
                return
            loss, grad_norm = plain_step(trainable, batch)
            ledger.note_readings(step + 1, {"loss": loss, "grad_norm": grad_norm})
            self._audience.watch(Moment("unguarded", step + 1, step + 1, self.num_steps, loss, grad_norm))

    def _keep(self, ledger_path: Path, of_run: str, name: str) -> None:
        ledger = Ledger.open(ledger_path, run=of_run)
        try:
            data: dict[str, Plain] = {"what": "twin", "run": name, "value": _plain(self.outcome), "unit": "nats"}
            ledger.append(Record("run", "", None, self.num_steps, 0.0, data))
        finally:
            ledger.close()


def plain_step(trainable: Trainable, batch: object) -> tuple[float, float]:
    """One optimiser step as anyone would write it; returns loss in nats and gradient norm before clipping."""
    import torch

    loss = trainable.loss(trainable.model, batch)
    loss.backward()  # type: ignore[no-untyped-call]
    grad_norm = torch.nn.utils.clip_grad_norm_(trainable.model.parameters(), trainable.max_norm)
    trainable.optimizer.step()
    trainable.optimizer.zero_grad(set_to_none=True)
    trainable.scheduler.step()
    return float(loss.detach()), float(grad_norm)


def _note(run: GuardedTraining, event: Event, **data: Plain) -> None:
    run.driver.note(Record(event, "", None, run.ticks, run.driver.seconds, data))


def _plain(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _case(fault: str) -> TrainingCase:
    cases = cast("tuple[TrainingCase, ...]", find_risk(_RISK, "the main job").drill_module().CASES)
    wanted = _CASES.get(fault, cases[0].name)
    return next(case for case in cases if case.name == wanted)


def _fresh_folder(folder: Path) -> Path:
    """``runs/0001``, ``runs/0002``, …: bundles of one run must not be resumed by the next."""
    root = folder / "runs"
    try:
        root.mkdir(parents=True, exist_ok=True)
        taken = [int(path.name) for path in root.iterdir() if path.name.isdigit()]
        home = root / f"{max(taken, default=0) + 1:04d}"
        home.mkdir()
    except OSError as error:
        raise ConfigError(
            f"--folder: {root} cannot be written ({error.strerror}); name a writable folder with free space"
        ) from None
    return home
