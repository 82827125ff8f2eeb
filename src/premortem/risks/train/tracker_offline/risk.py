"""The experiment tracker is offline.

What fails
    The server that takes a run's metrics is down, hangs, or refuses the credentials.

Why it hurts
    A plain client call waits for it inside the training step, by default for minutes, and then raises or drops the
    values: a run that is slow, dead, or that nobody can look at again.

How it is seen
    Nothing arrives for 60 s although records are owed: RED. Sends that failed in a row: RED from
    5. No run after it was asked for: RED beyond 60 s. Refused credentials: RED at once, a symptom of its own. A spool
    that no disk takes: RED from 100 records in a row.

Ladder
    switch to offline mode (files that the tracker's own tools read) → log locally (the spool alone) → sync later.
    Going offline is peeled off again when the incident is over: the tracker then gets all that it missed, each
    record once. Refused credentials are no retry's business: local log only, and a person is told.

Covered / not covered
    Covered: mlflow, wandb and TensorBoard, through `premortem.tracking`; a step never waits for them, healthy or
    not, as another process sends. Not covered: artifacts, images and models; a file system for the spool that hangs
    in a write; records of other loggers than the tracker's.

Drill
    A training run whose mlflow server, a real one behind a real proxy, is dead or hangs for a part of the run; what
    counts is the share of records that are missing or doubled in the server's database in the end.

Source
    AF-I.1 (agent forge, infrastructure: experiment tracker offline).
"""

from __future__ import annotations

from dataclasses import dataclass

from premortem.core.action import Override
from premortem.core.clock import ticks
from premortem.core.ladder import Relation, Rung
from premortem.core.risk import Risk, Watch
from premortem.parts.detectors import Threshold

AWAY, DENIED, DISK = "tracker away", "tracker refuses us", "spool not written"
MENDED_BY_FILES = frozenset({AWAY})
MENDED_LOCALLY = frozenset({AWAY, DISK})


@dataclass(frozen=True)
class Params:
    """Patience with a tracker; it is looked at once a second, and a sender that starts gets `settle` looks."""

    oldest_unsent_s: float = 60.0
    failures_in_a_row: int = 5
    run_missing_s: float = 60.0
    spool_failures: int = 100
    settle: int = 30
    confirm: int = 8
    deadline: int = 60


def watches(p: Params) -> tuple[Watch, ...]:
    """What is owed, and why."""
    return (
        Watch("oldest unsent record", "unsent_age", AWAY, lambda: Threshold(red=p.oldest_unsent_s)),
        Watch("failed sends", "send_failures", AWAY, lambda: Threshold(yellow=0.5, red=p.failures_in_a_row - 0.5)),
        Watch("missing run", "run_missing", AWAY, lambda: Threshold(red=p.run_missing_s)),
        Watch("refused credentials", "refused", DENIED, lambda: Threshold(red=0.5)),
        Watch("failing spool", "spool_failures", DISK, lambda: Threshold(yellow=0.5, red=p.spool_failures - 0.5)),
    )


def rungs(p: Params) -> tuple[Rung, ...]:
    """Ever less of a tracker, and never a record lost. Modes are 1 (offline) and 2 (local)."""
    settle, confirm, deadline = ticks(p.settle), p.confirm, ticks(p.deadline)
    return (
        Rung("switch to offline mode", "mode", Override("choose", 1.0), MENDED_BY_FILES,
             settle=settle, confirm=confirm, deadline=deadline),
        Rung("log locally", "mode", Override("choose", 2.0), MENDED_LOCALLY,
             settle=settle, confirm=confirm, deadline=deadline),
        Rung("sync later", "sync", Override("choose", "sync later"), MENDED_LOCALLY, Relation.IRREVERSIBLE,
             settle=settle, confirm=confirm, deadline=deadline),
    )  # fmt: skip


def contingency(p: Params) -> Rung:
    """The spool keeps all; the run goes on, and a person sends it later."""
    return Rung("local log only", "mode", Override("choose", 2.0), frozenset({AWAY, DENIED, DISK}),
                settle=ticks(p.settle), confirm=p.confirm, deadline=ticks(p.deadline))  # fmt: skip


RISK = Risk("the experiment tracker is offline", "tracker", Params, watches, rungs, contingency)
