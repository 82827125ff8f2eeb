"""A ladder is rungs in order. A rung is an override on a control, and when it may be tried."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from premortem.core.action import Override
from premortem.core.clock import Duration, ticks


class Relation(Enum):
    """How a rung stands to the ones above it."""

    CUMULATIVE = "cumulative"
    """Stays while later rungs are tried; peeled after recovery."""
    ALTERNATIVE = "alternative"
    """Undone before the next rung is tried."""
    IRREVERSIBLE = "irreversible"
    """Nothing to be taken off after recovery (a restore, a deletion): never peeled."""


@dataclass(frozen=True, slots=True)
class Rung:
    """One step of a ladder.

    Attributes:
        name: an imperative phrase, unique in its risk.
        control: the control it turns.
        override: what it puts there.
        mends: symptoms it can mend; on any other it is passed over (law 3).
        relation: cumulative, alternative or irreversible.
        tries: how often it may be tried in one incident (law 9).
        settle: observations to wait before verification.
        confirm: fresh, conclusive, GREEN observations in a row that verify it.
        deadline: after settling, when verification gives up.
        condition: name of one more condition of the workload's, asked at the end of verification.
        ends_run: the workload stops here; the incident is handed over, whatever is measured.
        due: the rung is a request to a person, whose evidence may come this much later; its control is read again
            at each observation until then (kernel decision 12).
        peel_after: name of a watch of the entry that sees the cause itself. After recovery the rung stays until that
            watch is GREEN, and only then is it tried without; left out, it is tried at once.
        taken_back: a request whose control can take it back: undone when it did not help, before the next rung. What
            it leaves then is the control's word; it is still never peeled.
    """

    name: str
    control: str
    override: Override
    mends: frozenset[str]
    relation: Relation = Relation.CUMULATIVE
    tries: int = 1
    settle: Duration = ticks(2)
    confirm: int = 10
    deadline: Duration = ticks(60)
    condition: str | None = None
    ends_run: bool = False
    due: Duration | None = None
    peel_after: str | None = None
    taken_back: bool = False

    @property
    def is_one_shot(self) -> bool:
        """Whether it is a request that leaves nothing standing: done once, never undone, never repeated."""
        return self.ends_run or (self.relation is Relation.IRREVERSIBLE and isinstance(self.override.by, str))

    @property
    def can_be_put_back(self) -> bool:
        """Whether it is a setting that may be turned again after a restart without doing anything twice."""
        return self.relation is not Relation.IRREVERSIBLE and not self.ends_run and self.due is None

    def applies_to(self, symptoms: frozenset[str]) -> bool:
        """Whether every symptom seen is one that this rung can mend (``*`` mends all)."""
        return "*" in self.mends or symptoms <= self.mends
