"""A checkpoint that is handed off is not what the trainer had in memory, or was not worth saving.

What fails
    NaN or zeroed weights from a run that went wrong; a file cut short by a full disk or a copy; a byte that changed.

Why it hurts
    A safetensors file with one flipped bit loads without an error. Whoever serves it finds out from its users.

How it is seen
    From the content, before it is handed off: readable in full; each tensor's hash is the trainer's; every value is
    finite; no matrix is all zero. Each is RED at one. What cannot be read is RED, and the rest is unknown.

Ladder
    fall back to the last good file, hash verified. It is settled by the next *new* content: reading the same file again
    is no evidence.

Covered / not covered
    Covered: damage and collapse. Not covered: a model that is finite, whole and bad (ask an evaluation gate).

Drill
    `python examples/checkpoint_gate/main.py`: NaN, zeroed, truncated and tampered files, each at a real gate's exit.

Source
    The requirement that a tick of a one-shot workload is an assessment of a content hash (kernel decision 2).
"""

from __future__ import annotations

from dataclasses import dataclass

from premortem.core.action import Override
from premortem.core.clock import ticks
from premortem.core.ladder import Relation, Rung
from premortem.core.risk import Risk, Watch
from premortem.parts.detectors import Threshold

SYMPTOMS = {"unreadable": "unreadable", "changed": "tampered", "not_finite": "not finite", "all_zero": "zeroed"}


@dataclass(frozen=True)
class Params:
    """Counts are of tensors or values; `deadline` of new contents."""

    bad_red: float = 0.5
    deadline: int = 10


def watches(p: Params) -> tuple[Watch, ...]:
    """One for each thing that can be wrong with it."""
    return tuple(Watch(s, s, symptom, lambda: Threshold(red=p.bad_red)) for s, symptom in SYMPTOMS.items())


def rungs(p: Params) -> tuple[Rung, ...]:
    """One: what was good is still good."""
    return (
        Rung("fall back to the last good file", "handed_off", Override("choose", "last good"),
             frozenset(SYMPTOMS.values()), Relation.IRREVERSIBLE, settle=ticks(0), confirm=1,
             deadline=ticks(p.deadline), condition="what is handed off is whole"),
    )  # fmt: skip


RISK = Risk("a bad checkpoint is handed off", "checkpoint", Params, watches, rungs, lambda p: None)
