"""What can be sabotaged, and how: every rung × hook × mutant, and pairs of them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Literal

from premortem.run.sabotage.stimulus import Subject

Hook = Literal["action", "undo", "read-back", "condition", "removal", "ledger"]
Mutant = Literal["no-op", "exit 1", "raise", "hang", "false success", "relapse", "left behind"]

HOOKS: tuple[Hook, ...] = ("action", "undo", "read-back", "condition", "removal", "ledger")
MUTANTS: tuple[Mutant, ...] = ("no-op", "exit 1", "raise", "hang", "false success", "relapse", "left behind")


@dataclass(frozen=True, slots=True)
class Sabotage:
    """One part broken in one way.

    What each mutant does at each hook: ``docs/kernel.md``.
    """

    hook: Hook
    mutant: Mutant

    def __str__(self) -> str:
        return f"{self.hook} × {self.mutant}"


@dataclass(frozen=True, slots=True)
class Cell:
    """One rung of one risk against one symptom, with its sabotages; none is a control.

    ``others_help``: the rungs below it mend the fault too, so that a kernel that climbs on can recover.
    """

    subject: Subject
    rung: str
    sabotages: tuple[Sabotage, ...] = ()
    others_help: bool = False

    @property
    def name(self) -> str:
        """Unique among all cells."""
        how = " + ".join(map(str, self.sabotages)) or "control"
        helped = ", others help" if self.others_help else ""
        return f"{self.subject.risk_id} [{self.subject.symptom}] {self.rung!r}: {how}{helped}"

    def of(self, hook: Hook) -> Mutant | None:
        """The mutant at a hook."""
        return next((s.mutant for s in self.sabotages if s.hook == hook), None)

    @property
    def has_others_below(self) -> bool:
        """Whether the ladder goes on below its rung, with one that applies."""
        names = [r.name for r in self.subject.rungs]
        below = self.subject.rungs[names.index(self.rung) + 1 :]
        return any(r.applies_to(self.subject.shown) for r in below)

    @property
    def hangs(self) -> bool:
        """Whether something never answers: only then is patience worth saving."""
        return any(s.mutant == "hang" for s in self.sabotages)


def grounds(subjects: Sequence[Subject]) -> Iterator[tuple[Subject, str]]:
    """Every rung that can mend its subject's symptom."""
    for subject in subjects:
        for rung in subject.rungs:
            if rung.applies_to(subject.shown):
                yield subject, rung.name


def controls(subjects: Sequence[Subject]) -> list[Cell]:
    """Nothing is broken: every one must recover."""
    return [Cell(s, r, (), more) for (s, r), more in product(grounds(subjects), (False, True))]


def singles(subjects: Sequence[Subject]) -> list[Cell]:
    """Every rung × hook × mutant, with and without another rung that helps."""
    ways = [Sabotage(h, m) for h, m in product(HOOKS, MUTANTS)]
    return [Cell(s, r, (w,), more) for (s, r), w, more in product(grounds(subjects), ways, (False, True))]


def pairs(subjects: Sequence[Subject], count: int, seed: int = 0) -> list[Cell]:
    """So many distinct pairs of sabotages at two hooks, drawn without replacement."""
    ways = [Sabotage(h, m) for h, m in product(HOOKS, MUTANTS)]
    two = [(a, b) for a, b in combinations(ways, 2) if a.hook != b.hook]
    every = list(product(list(grounds(subjects)), two))
    drawn = random.Random(seed).sample(every, min(count, len(every)))
    return [Cell(s, r, pair) for (s, r), pair in drawn]
