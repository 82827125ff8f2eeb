"""A repository delivers worse each week: tests go, changes come without any, branches are never merged.

What fails
    A commit takes tests away to get through; the last changes bring hardly a test; a branch stays open for days.

Why it hurts
    Each is small. Together they are why the release before the holidays cannot be made.

How it is seen
    From the history, at each assessment: tests that `main` once had and has no more (RED at one); the share of tests in
    the lines of the last five commits; the age of the oldest branch that is not merged.

Ladder
    refuse commits that take tests away (a hook, taken off after recovery; it brings nothing back) → ask the author to
    bring them back → for a branch: ask its owner to merge or drop it → hold the release. The two in the middle are
    requests to people: due some assessments later, and answered by a commit that names the request.

Covered / not covered
    Covered: what git knows. Not covered: tests that are there and assert nothing.

Drill
    `python examples/git_delivery/main.py`: a real repository with real commits; one request answered, one not.

Source
    Kernel decision 12: a rung may be a request to a person, with evidence on a later assessment.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import nan

from premortem.core.action import Override
from premortem.core.clock import ticks
from premortem.core.ladder import Relation, Rung
from premortem.core.risk import Risk, Watch
from premortem.parts.detectors import Threshold

GONE, FEW, OLD = "tests are gone", "few tests come", "a branch is old"


@dataclass(frozen=True)
class Params:
    """Shares from 0 to 1; ages in days."""

    share_yellow: float = 0.25
    age_yellow: float = 3.0
    age_red: float = 7.0


def watches(p: Params) -> tuple[Watch, ...]:
    """Few tests are recorded; nobody is held up for that."""
    return (
        Watch("tests", "tests_lost", GONE, lambda: Threshold(red=0.5)),
        Watch("share", "test_share", FEW, lambda: Threshold(yellow=p.share_yellow, red=nan, below=1.0), required=False),
        Watch("branch", "branch_age", OLD, lambda: Threshold(yellow=p.age_yellow, red=p.age_red)),
    )


def rungs(p: Params) -> tuple[Rung, ...]:
    """Deadlines are in assessments; a register makes requests of the two that only people can carry out."""

    def rung(name: str, control: str, to: str, mends: str, relation: Relation = Relation.CUMULATIVE) -> Rung:
        return Rung(name, control, Override("choose", to), frozenset({mends}), relation, settle=ticks(0), confirm=1,
                    deadline=ticks(1))  # fmt: skip

    return (
        rung("refuse commits that take tests away", "commits", "keep tests", GONE),
        rung("ask the author to bring the tests back", "author", "bring them back", GONE, Relation.IRREVERSIBLE),
        rung("ask the owner to merge or drop the branch", "owner", "merge or drop it", OLD, Relation.IRREVERSIBLE),
    )


def contingency(p: Params) -> Rung:
    """Nothing goes out of a repository that nobody mends."""
    return Rung("hold the release", "release", Override("choose", "held"), frozenset({"*"}), settle=ticks(0), confirm=1,
                deadline=ticks(1))  # fmt: skip


RISK = Risk("a repository delivers worse each week", "repository", Params, watches, rungs, contingency)
