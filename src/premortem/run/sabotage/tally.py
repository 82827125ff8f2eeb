"""Counts what became of the cells, by hook and mutant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from premortem.core.evidence import Plain
from premortem.run.sabotage.campaign import Result
from premortem.run.sabotage.cells import HOOKS, MUTANTS

_RECOVERED = ("recovered", "recovered (held)")
_MUST_HAND_OVER = frozenset({"undo", "ledger", "condition", "read-back"})
"""Hooks that a verdict itself rests on: with them broken, a healthy plant is rightly handed to a person."""


@dataclass(frozen=True, slots=True)
class Tally:
    """The figures of a campaign.

    A wrong hand-over: the plant was healthy, nothing that a verdict rests on was broken, and a rung that helps could
    still be carried out.
    """

    num_cells: int
    num_distinct: int
    num_controls: int
    controls_recovered: int
    wrong_recovered: tuple[str, ...]
    handed_over_healthy: int
    wrong_hand_overs: tuple[str, ...]
    unfinished: tuple[str, ...]
    by_way: dict[str, Counter[str]]

    @property
    def passes(self) -> bool:
        """No wrong recovery, no cell without a verdict, every control recovered."""
        sound = self.controls_recovered == self.num_controls
        return sound and not self.wrong_recovered and not self.unfinished

    def as_json(self) -> dict[str, Plain]:
        """Plain data."""
        return {
            "cells": self.num_cells,
            "distinct": self.num_distinct,
            "controls": self.num_controls,
            "controls_recovered": self.controls_recovered,
            "wrong_recovered": [*self.wrong_recovered],
            "handed_over_healthy": self.handed_over_healthy,
            "wrong_hand_overs": [*self.wrong_hand_overs],
            "unfinished": [*self.unfinished],
            "by_way": {way: dict(counts) for way, counts in self.by_way.items()},
        }

    def lines(self) -> list[str]:
        """For people."""
        text = [f"{'hook × mutant':34} {'cells':>6} {'recovered':>10} {'held':>6} {'handed over':>12} {'wrong':>6}"]
        for way, n in self.by_way.items():
            row = (n["recovered"], n["recovered (held)"], n["handed over"], n["wrong"])
            text.append(f"{way:34} {n['cells']:6} {row[0]:10} {row[1]:6} {row[2]:12} {row[3]:6}")
        text += [
            f"cells {self.num_cells}, distinct {self.num_distinct}",
            f"controls: {self.controls_recovered} of {self.num_controls} recovered",
            f"wrong 'recovered': {len(self.wrong_recovered)}",
            f"handed over while healthy: {self.handed_over_healthy}, of them wrongly: {len(self.wrong_hand_overs)}",
            f"without a verdict: {len(self.unfinished)}",
        ]
        return text + [f"  WRONG {line}" for line in (*self.wrong_recovered, *self.wrong_hand_overs, *self.unfinished)]


def tally(results: Sequence[Result]) -> Tally:
    """Count. Pairs of sabotages count on the row ``pairs``."""
    by_way: dict[str, Counter[str]] = {f"{h} × {m}": Counter() for h in HOOKS for m in MUTANTS}
    for result in results:
        sabotages = result.cell.sabotages
        way = "control" if not sabotages else str(sabotages[0]) if len(sabotages) == 1 else "pairs"
        counts = by_way.setdefault(way, Counter())
        counts["cells"] += 1
        counts[result.ended or "unfinished"] += 1
        counts["wrong"] += bool(result.wrong)
    controls = [r for r in results if not r.cell.sabotages]
    healthy = [r for r in results if r.healthy_at_hand_over]
    return Tally(
        len(results), len({r.cell.name for r in results}),
        len(controls), sum(r.ended in _RECOVERED for r in controls),
        tuple(f"{r.cell.name}: {r.wrong[0]}" for r in results if r.wrong),
        len(healthy), tuple(f"{r.cell.name}: {r.why}" for r in healthy if _is_wrong_hand_over(r)),
        tuple(r.cell.name for r in results if not r.ended),
        {way: counts for way, counts in by_way.items() if counts},
    )  # fmt: skip


def _is_wrong_hand_over(result: Result) -> bool:
    cell = result.cell
    if any(s.hook in _MUST_HAND_OVER for s in cell.sabotages):
        return False
    return cell.of("action") is None or (cell.others_help and cell.has_others_below)
