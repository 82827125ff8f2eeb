"""Memory in a guarded run: who measures it, what the ladder may turn, who answers when it runs out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from premortem.core.action import Control
from premortem.stages.train.guarded.failures import Failure
from premortem.stages.train.guarded.fitting import Fitting
from premortem.stages.train.guarded.forward import Forward
from premortem.stages.train.guarded.gauge import gauge_of
from premortem.stages.train.guarded.moving import device_of
from premortem.stages.train.guarded.recompute import Recompute
from premortem.stages.train.guarded.relief import Caches, IdleModels
from premortem.stages.train.guarded.requests import Request
from premortem.stages.train.guarded.room import Room

if TYPE_CHECKING:
    from premortem.run.guard import Options
    from premortem.run.subject import Subject
    from premortem.run.training import GuardedTraining

_GIB = 1 << 30
_WATCHED = frozenset({"memory_need", "ooms"})


class MakingRoom:
    """Fits every batch of the second form into memory, and holds the controls that the ladder turns for it."""

    def __init__(self, run: GuardedTraining, subject: Subject, options: Options) -> None:
        self._run = run
        self._saves = False
        stages = [name for name, thing in subject.state.items() if callable(getattr(thing, "commit", None))]
        why_whole = f"{stages[0]!r} stages its changes, and would be staged by each piece anew" if stages else ""
        gauge = gauge_of(device_of(subject.model), options.memory_budget_gb * _GIB)
        forward = Forward(subject.model)
        self.fitting = Fitting(
            run.stepper,
            gauge,
            forward,
            weigh=options.weigh,
            why_whole=why_whole,
            report=lambda what: self._report(what),
        )
        forward.precision.on_change = self.fitting.forget
        self._precision = forward.precision
        self._recompute = Recompute(subject.model, self.fitting.forget)
        self._caches = Caches(gauge, options.caches, self.fitting.look_again)
        self._idle = IdleModels(options.idle_models)
        self.room = Room(self.fitting, forward, self._recompute, self._caches, self._idle)

    def controls(self, *, has_folder: bool) -> dict[str, Control]:
        """By name: what this run has."""
        self._saves = has_folder
        controls: dict[str, Control] = {"caches": self._caches}
        if not self._run.stepper.needs_closure:
            controls |= {"micro_batch": self.fitting.cap, "precision": self._precision}
        if self._recompute.is_possible:
            controls["recompute"] = self._recompute
        if self._idle.num_kept:
            controls["idle_models"] = self._idle
        return controls | {"orderly_end": Request(self._end, self._has_ended)}

    def witnesses(self, controls: dict[str, Control]) -> dict[str, str]:
        """Those of the controls that this run has."""
        return {control: signal for control, signal in self.room.witnesses().items() if control in controls}

    def listen(self) -> None:
        """Take every batch of the second form; give up steps without room only where a register watches memory."""
        run = self._run
        run.trying.take = self.fitting.take
        run.trying.answers["out of memory"] = self.fitting.answer
        run.trying.answers["not the same again"] = self._keep_activations
        self.fitting.may_give_up = any(b.watch.signal in _WATCHED for b in run.engine.plan.watches)

    def stepped(self, *, second_form: bool) -> None:
        """A step is over, before its row is read."""
        if not second_form:
            self.fitting.not_ours()
            self._precision.used = None
        self._caches.stepped()

    def close(self) -> None:
        """Leave nothing behind: forwards as they were, idle models where they were."""
        self._recompute.give_up()
        self._idle.close()

    def _end(self, request: str) -> None:
        if self._saves:  # the bundle alone: the kernel is in the middle of this very command
            self._run.keeping.save(self._run.ticks)
        self._run.asking.stop(request)

    def _has_ended(self) -> bool:
        run = self._run
        return bool(run.stop_reason) and not run.keeping.is_behind

    def _keep_activations(self, failure: Failure) -> Callable[[], None]:
        self._report(f"this model's blocks cannot be computed again, activations are kept: {failure.what}")
        return self._recompute.give_up

    def _report(self, what: str) -> None:
        self._run.report_gap(what)
