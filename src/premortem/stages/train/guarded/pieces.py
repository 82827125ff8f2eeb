"""How a batch is taken, as plain figures: its size, the plan that stands, what a step came to, the cap on a piece."""

from __future__ import annotations

import math
from dataclasses import dataclass

from premortem.stages.train.guarded.gauge import Look
from premortem.stages.train.guarded.settings import NumberSetting


@dataclass(slots=True)
class Taken:
    """What the present step came to, for the signals; ``None`` is unknown."""

    held: Look | None = None
    """At the step's begin, before its first pass."""
    peak_share: float | None = None
    need_share: float | None = None
    pieces: int | None = None
    cap: float | None = None
    ooms: int = 0


@dataclass(frozen=True, slots=True)
class Size:
    """A batch's samples and elements; one that cannot be split is one sample."""

    samples: int
    elements: int
    why_not: str = ""

    def of(self, samples: int) -> int:
        """Elements of so many of its samples."""
        return math.ceil(self.elements * samples / self.samples)


class PieceCap(NumberSetting):
    """Samples a piece at most; finite, pieces are the largest that fit beneath it. Acts in the second form only."""

    def __init__(self) -> None:
        super().__init__(math.inf)
        self.acts = True

    def read(self) -> float:
        """The cap in force; none where the last step's form could not obey it."""
        return self.value if self.acts else math.inf
