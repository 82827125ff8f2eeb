"""Data sets cannot be had, or not whole and right.

What fails
    A set that the run needs is not there: the hub refuses, hangs or limits the rate, the set was renamed or
    withdrawn, a file comes cut or garbled.

Why it hurts
    The run cannot begin, or dies when it first reads the set. Worse: a cut or garbled file is often read without an
    error, and the model learns from half of the rows, or from noise.

How it is seen
    Before the run: every file of every required set is fetched and held against the hash that its source names, and
    the first 10 rows are decoded; columns must be there and not empty. One set that is unreachable, not there or
    damaged is RED.

Ladder
    retry with exponential backoff (not for what is not there: later is no better) → go to the next mirror → use the
    cached copy. What was fetched stays: nothing is taken back.

Covered / not covered
    Covered: refused, reset and hanging connections, trickles, 404, 429 with Retry-After, 5xx, cut and garbled files,
    missing columns, a damaged cache, two processes at once. Not covered: rows that are wrong at the source itself; a
    file whose source names no hash, garbled so that it still decodes; a first fetch by the plain library path, for
    which only the library's own checks speak. The cached copy may be older than what the hub has now.

Drill
    A real hub on loopback that refuses, hangs, limits the rate, cuts, garbles or renames; the plain script is what
    anyone would write.

Source
    AF-1.1 (agent forge, phase 1: dataset download failures).
"""

from __future__ import annotations

from dataclasses import dataclass

from premortem.core.action import Override
from premortem.core.clock import ticks
from premortem.core.ladder import Relation, Rung
from premortem.core.risk import Risk, Watch
from premortem.parts.detectors import Threshold

LATER_MAY_BE_BETTER = frozenset({"unreachable", "damaged"})
ANY = LATER_MAY_BE_BETTER | {"not there"}


@dataclass(frozen=True)
class Params:
    """Counts in sets and assessments."""

    allowed_missing: int = 0
    mirror_tries: int = 3
    cache_tries: int = 1


def watches(p: Params) -> tuple[Watch, ...]:
    """One watch for each way to be missing: they are mended by different rungs."""
    return tuple(
        Watch(name, signal, symptom, lambda: Threshold(red=p.allowed_missing + 0.5))
        for name, signal, symptom in (
            ("unreachable sets", "sets_unreachable", "unreachable"),
            ("sets that are not there", "sets_not_there", "not there"),
            ("damaged sets", "sets_damaged", "damaged"),
        )
    )


def rungs(p: Params) -> tuple[Rung, ...]:
    """A way is gone once; the assessment after it shows what it brought."""

    def way(name: str, by: str, mends: frozenset[str], tries: int) -> Rung:
        return Rung(name, "fetch", Override("choose", by), mends, Relation.IRREVERSIBLE, tries=tries,
                    settle=ticks(0), confirm=1, deadline=ticks(1))  # fmt: skip

    return (
        way("retry with exponential backoff", "retry", LATER_MAY_BE_BETTER, 1),
        way("go to the next mirror", "next mirror", ANY, p.mirror_tries),
        way("use the cached copy", "cached copy", ANY, p.cache_tries),
    )


def contingency(p: Params) -> Rung:
    """Nothing is trained on data that is not whole."""
    return Rung("stop before any training", "run", Override("choose", "stopped: data sets are missing"), ANY,
                ends_run=True)  # fmt: skip


RISK = Risk("data sets cannot be had, or not whole and right", "data", Params, watches, rungs, contingency)
