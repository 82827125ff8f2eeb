"""A batch of records is not as agreed, and goes downstream.

What fails
    A field is renamed, a burst of nulls, rows sent twice, rows a day late.

Why it hurts
    Nothing crashes. A sum is too high by a quarter, a model learns from nulls, and somebody finds out in a month.

How it is seen
    By what is *published*: the share of rows that are wrong, each way of being wrong its own symptom; too few rows; a
    snapshot that is too old. What comes in is watched apart (YELLOW): a wrong row in quarantine harms nobody.

Ladder
    quarantine the wrong rows → publish the last good snapshot → stop downstream. Quarantine cannot mend that too few
    rows are left. The first two stand until what comes in is as agreed again.

Covered / not covered
    Covered: what a row or a batch shows by itself. Not covered: amounts that are plausible and wrong.

Drill
    `python examples/data_pipeline/main.py`: real files from a producer that goes wrong in four ways.

Source
    Polyzotis et al., Data Validation for Machine Learning, MLSys 2019.
"""

from __future__ import annotations

from dataclasses import dataclass

from premortem.core.action import Override
from premortem.core.clock import ticks
from premortem.core.ladder import Rung
from premortem.core.risk import Risk, Watch
from premortem.parts.detectors import Threshold

WRONG = frozenset({"schema is wrong", "null is wrong", "duplicate is wrong", "late is wrong"})
FEW, OLD = "too few rows", "snapshot is old"
CAUSE = "what comes in"


@dataclass(frozen=True)
class Params:
    """Shares from 0 to 1; `age_red`, `confirm` and `deadline` in batches."""

    wrong_red: float = 0.02
    rows_red: float = 0.6
    age_red: float = 9.0
    confirm: int = 2
    deadline: int = 3


def watches(p: Params) -> tuple[Watch, ...]:
    """What went out opens incidents; what came in says when a fallback may go."""
    out = tuple(
        Watch(wrong, f"out_{wrong}", f"{wrong} is wrong", lambda: Threshold(red=p.wrong_red))
        for wrong in ("schema", "null", "duplicate", "late")
    )
    return (
        *out,
        Watch("rows", "out_rows", FEW, lambda: Threshold(red=p.rows_red, below=1.0)),
        Watch("age", "snapshot_age", OLD, lambda: Threshold(red=p.age_red)),
        Watch(CAUSE, "in_wrong", "wrong rows come in", lambda: Threshold(yellow=p.wrong_red)),
    )


def rungs(p: Params) -> tuple[Rung, ...]:
    """Both stand until the cause has gone."""

    def rung(name: str, control: str, to: str, mends: frozenset[str]) -> Rung:
        return Rung(name, control, Override("choose", to), mends, settle=ticks(0), confirm=p.confirm,
                    deadline=ticks(p.deadline), peel_after=CAUSE)  # fmt: skip

    return (
        rung("quarantine the wrong rows", "admit", "right rows", WRONG),
        rung("publish the last good snapshot", "source", "last good", WRONG | {FEW}),
    )


def contingency(p: Params) -> Rung:
    """Better no figures than wrong ones."""
    return Rung("stop downstream", "downstream", Override("choose", "stopped"), frozenset({"*"}), ends_run=True)


RISK = Risk("a wrong batch goes downstream", "pipeline", Params, watches, rungs, contingency)
