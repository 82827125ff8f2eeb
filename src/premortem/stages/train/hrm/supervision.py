"""Deep supervision behind the plain ``loss_fn(model, batch) -> loss`` seam that an outer training loop calls."""

from __future__ import annotations

import torch
from torch import Tensor

from premortem.stages.train.hrm.carry import Batch, Carry
from premortem.stages.train.hrm.loss import Metrics, act_loss
from premortem.stages.train.hrm.model import HRM


class DeepSupervision:
    """Holds the carry of a run. A call computes one segment and *stages* its carry; :meth:`commit` adopts it.

    Commit after a step that was kept. After a skipped or failed step do not: the next call starts from the last
    committed carry, so a poisoned batch leaves no NaN in the states. A batch may be split into parts that are
    called one after the other, if it has ``slots`` (see :data:`Batch`) to say which carry rows a part owns.
    """

    def __init__(self, model: HRM, first: Batch) -> None:
        self.carry: Carry = model.initial_carry(first)
        self.metrics: Metrics = {}
        self._staged: list[tuple[Tensor | None, Carry]] = []

    def __call__(self, model: HRM, batch: Batch) -> Tensor:
        """Mean loss of one segment over ``batch``."""
        slots = batch.get("slots")
        start = self.carry if slots is None else self.carry.take(slots)
        after, loss, self.metrics = act_loss(model, start, batch)
        self._staged.append((slots, after))
        return loss

    def commit(self) -> None:
        """Adopt what was staged since the last commit; a slot staged twice keeps the later state."""
        for slots, part in self._staged:
            self.carry = part if slots is None else self.carry.put(slots, part)
        self._staged = []

    def discard(self) -> None:
        """Forget what was staged: the step was not kept."""
        self._staged = []

    def state_dict(self) -> dict[str, Tensor]:
        """The committed carry; what is only staged is not part of it."""
        return self.carry.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go back to a saved carry, on the device where this run's carry lies; staged segments are dropped."""
        self.carry = Carry.from_state_dict(state).to(self.carry.z_high.device)
        self.discard()


def number_slots(batch: Batch) -> Batch:
    """The batch with ``slots`` 0..B-1, so that it may be split into parts."""
    inputs = batch["inputs"]
    return {**batch, "slots": torch.arange(len(inputs), device=inputs.device)}
