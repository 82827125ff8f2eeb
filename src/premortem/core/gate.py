"""Go or no-go over evidence, with three values: what is not known is never go (law 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class Answer(Enum):
    """A clause's answer, and a gate's."""

    GO = "go"
    CONDITIONAL = "conditional"
    NO_GO = "no-go"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True)
class Clause:
    """One thing that a gate asks, with the evidence that answers it."""

    asked: str
    answer: Answer
    because: str


@dataclass(frozen=True, slots=True)
class Decision:
    """A gate's decision. Only ``GO`` passes."""

    gate: str
    answer: Answer
    clauses: tuple[Clause, ...]

    @property
    def passes(self) -> bool:
        """Whether the gate opens."""
        return self.answer is Answer.GO


def decide(gate: str, clauses: Sequence[Clause]) -> Decision:
    """The worst clause decides; a gate that asks nothing has no evidence and is inconclusive.

    >>> decide("release", []).answer
    <Answer.INCONCLUSIVE: 'inconclusive'>
    """
    for answer in (Answer.NO_GO, Answer.INCONCLUSIVE, Answer.CONDITIONAL):
        if any(c.answer is answer for c in clauses):
            return Decision(gate, answer, tuple(clauses))
    return Decision(gate, Answer.GO if clauses else Answer.INCONCLUSIVE, tuple(clauses))


def measured(asked: str, value: float | None, go: float, no_go: float, *, lower_is_better: bool = True) -> Clause:
    """A clause on a measured figure; between go and no-go it is conditional, without a figure inconclusive."""
    if value is None or value != value:
        return Clause(asked, Answer.INCONCLUSIVE, "not measured")
    sign = 1.0 if lower_is_better else -1.0
    if sign * value <= sign * go:
        return Clause(asked, Answer.GO, f"measured {value:g}, go at {go:g}")
    if sign * value > sign * no_go:
        return Clause(asked, Answer.NO_GO, f"measured {value:g}, no-go beyond {no_go:g}")
    return Clause(asked, Answer.CONDITIONAL, f"measured {value:g}, between {go:g} and {no_go:g}")
