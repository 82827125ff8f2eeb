"""What the kernel asks of its driver. The driver owns the loop, the clock and all I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from premortem.core.action import Override, Owner
from premortem.core.evidence import Record

Verb = Literal[
    "note",  # write the record; no outcome is awaited
    "turn",  # write the intent, then Control.turn
    "undo",  # write the intent, then Control.undo
    "read",  # Control.read, value in the outcome
    "ask",  # evaluate the workload's named condition
    "keep",  # write the record and read it back: a verdict without evidence is none
    "mark_good",  # the checkpoint saved at ``tick`` earned its mark
]


@dataclass(frozen=True, slots=True)
class Target:
    """What a command is about: a control and who turns it how, or a condition's name."""

    control: str = ""
    owner: Owner | None = None
    override: Override | None = None
    condition: str = ""


NO_TARGET = Target()


@dataclass(frozen=True, slots=True)
class Command:
    """One request. All verbs but ``note`` and ``mark_good`` await :meth:`Engine.outcome` with this number."""

    number: int
    verb: Verb
    record: Record
    target: Target = NO_TARGET
    tick: int = 0

    @property
    def awaits_outcome(self) -> bool:
        """Whether the kernel waits for what came of it."""
        return self.verb not in ("note", "mark_good")
