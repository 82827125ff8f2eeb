"""One-shot controls of a training run: skip, stop, restore, delete."""

from __future__ import annotations

from collections.abc import Callable

from premortem.core.action import Control
from premortem.core.errors import StageError
from premortem.run.keeping import Keeping
from premortem.stages.train.guarded.draws import Draws
from premortem.stages.train.guarded.requests import Request
from premortem.stages.train.guarded.stepper import Stepped, Stepper


class Asking:
    """What the ladder may ask of a run once.

    ``on_skipped`` is called when the skip list has grown, ``tell`` of what a restore did beside what was asked.
    """

    def __init__(
        self, stepper: Stepper, draws: Draws, on_skipped: Callable[[], None], tell: Callable[[str], None]
    ) -> None:
        self._stepper = stepper
        self._tell = tell
        self._draws = draws
        self._on_skipped = on_skipped
        self.last: Stepped | None = None
        self.stop_reason = ""

    def controls(
        self, keeping: Keeping, on_restored: Callable[[], None], *, has_folder: bool, has_intermediates: bool
    ) -> dict[str, Control]:  # fmt: skip
        """By name; those on checkpoints are there only with a folder."""
        controls: dict[str, Control] = {
            "batch": Request(self._skip_batches, self._batches_are_skipped),
            "run": Request(lambda request: self.stop(request + keeping.where()), lambda: bool(self.stop_reason)),
        }
        if has_folder:

            def restored() -> None:
                self._stepper.forget()
                on_restored()

            controls["weights"] = keeping.restore_control(self._stepper.model, restored, self._tell)
            controls["checkpoints"] = keeping.prune_control()
            if has_intermediates:
                controls["intermediates"] = keeping.intermediates_control()
        return controls

    def stop(self, request: str) -> None:
        """End the run after this step."""
        self.stop_reason = request

    def _skip_batches(self, request: str) -> None:
        """Remember the batches whose gradient never reached the weights, so that no epoch draws them again."""
        if self.last is None or self.last.applied:
            raise StageError("the last step was applied: there is no batch to skip")
        self._draws.skip_bad()
        self._on_skipped()

    def _batches_are_skipped(self) -> bool:
        return self._draws.are_skipped and self._stepper.weights_are_finite()
