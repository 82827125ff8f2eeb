"""Inference gets slower in production.

What fails
    A service takes longer to answer than it used to: neighbours that want the same processor, a cache that costs more
    than it saves, a worker that hangs, a heavier model than before.

Why it hurts
    An answer that comes too late is no answer: clients give up, ask again, and make it worse. No log says anything.

How it is seen
    At every reading, from the time between acceptance and answer, the cache's answers left out: p50 and p95 over a
    baseline that was learned when the service was healthy and kept in a file, so that it outlives the process. RED
    above 1.3 × the baseline in 3 windows in a row, until 2 in a row are within it; a p95 needs 200 requests, each
    counted in one window. Slower only: faster is reported (YELLOW) and never mitigated, and so is more than twice the
    load that the baseline knows, under which slower is no finding. At any load RED: over a tenth of those who ask are
    turned away; the oldest unanswered request waits for more than 1 s, as with a silent worker.

Ladder
    reduce the computation depth (halved, twice) → clear the caches → restart the worker → fall back to the PPO
    policy. Every turn begins the latencies anew: only requests that were accepted afterwards say whether it helped. A
    silent worker is mended by a restart, at once, or by the fallback; a slow one answers until the one that replaces
    it is warm. The fallback stands until canary requests to the worker, beside the clients, are as fast as they were;
    then it and the depth are taken back, each verified. When all are spent, a person is asked to step in.

Covered / not covered
    Covered: everything between acceptance and answer, in this service and its worker; who ran out of time counts as
    slow. Not covered: the network in front; harder puzzles, which look the same; whether shallower answers, or the
    fallback's, are good enough (the service tells how many are right, by policy). Less than about 10 requests a second
    needs longer deadlines. A first start that is slow already can become the baseline: look at it once.

Drill
    A real service with a worker process and clients that do not wait for each other: processes that compete for the
    worker's core, a cache of over a million answers, a stopped worker, a heavier model of the same name. The cache
    hurts through full garbage collections, four a second, which this service does as some programs do and `premortem
    infer` does not. Outcome: the share of requests that were late, wrong or refused since the fault came.

Source
    HRM-9.2.1 (HRM design document, section 9: over 30 % from the baseline; depth, caches, restart, PPO).
"""

from __future__ import annotations

from dataclasses import dataclass

from premortem.core.action import Override
from premortem.core.clock import ticks
from premortem.core.ladder import Relation, Rung
from premortem.core.risk import Risk, Watch
from premortem.parts.detectors import Threshold
from premortem.risks.serve.slow_inference.windows import AgreeingWindows

SLOW = frozenset({"slow"})
SLOW_OR_SILENT = frozenset({"slow", "silent"})
BEHIND = "the model behind the fallback"


@dataclass(frozen=True)
class Params:
    """``excess`` over the baseline and ``turned_away`` of those who ask as shares; ``silent_s`` in seconds; windows of
    requests, ``acquit`` of them in a row clear; deadlines in readings."""

    excess: float = 0.3
    p50_enough: int = 3
    p50_of: int = 3
    p95_enough: int = 3
    p95_of: int = 3
    acquit: int = 2
    silent_s: float = 1.0
    turned_away: float = 0.1
    depth_by: float = 0.5
    depth_tries: int = 2
    settle: int = 1
    confirm: int = 2
    deadline: int = 80
    restart_due: int = 120

    def __post_init__(self) -> None:
        if not self.excess > 0:
            raise ValueError(f"found excess {self.excess}, expected a share above 0")
        if not self.silent_s > 0:
            raise ValueError(f"found silent_s {self.silent_s}, expected seconds above 0")
        if not 0 < self.turned_away < 1:
            raise ValueError(f"found turned_away {self.turned_away}, expected a share between 0 and 1")
        if not 0 < self.depth_by < 1:
            raise ValueError(f"found depth_by {self.depth_by}, expected a factor between 0 and 1")


def watches(p: Params) -> tuple[Watch, ...]:
    """Slower than it was, silent, and what is only reported."""
    slower, faster = 1.0 + p.excess, 1.0 / (1.0 + p.excess)
    return (
        Watch("p50 over its baseline", "slowdown_p50", "slow",
              lambda: AgreeingWindows(bound=slower, enough=p.p50_enough, of=p.p50_of, acquit=p.acquit)),
        Watch("p95 over its baseline", "slowdown_p95", "slow",
              lambda: AgreeingWindows(bound=slower, enough=p.p95_enough, of=p.p95_of, acquit=p.acquit)),
        Watch("clients turned away", "refused_share", "slow", lambda: Threshold(red=p.turned_away), required=False),
        Watch("silent worker", "oldest_s", "silent", lambda: Threshold(red=p.silent_s)),
        Watch("faster than the baseline", "slowdown_p50", "faster",
              lambda: AgreeingWindows(bound=faster, enough=p.p50_enough, of=p.p50_of, mild=1.0, below=1.0),
              required=False),
        Watch("more load than the baseline knows", "load", "another load",
              lambda: Threshold(yellow=2.0), required=False),
        Watch(BEHIND, "probe_slowdown", "slow model",
              lambda: Threshold(yellow=slower, clear=p.excess / 2.0), required=False),
    )  # fmt: skip


def rungs(p: Params) -> tuple[Rung, ...]:
    """What costs the clients least goes first."""

    def rung(name: str, control: str, override: Override, mends: frozenset[str], **more: object) -> Rung:
        return Rung(name, control, override, mends, settle=ticks(p.settle), confirm=p.confirm,
                    deadline=ticks(p.deadline), **more)  # type: ignore[arg-type]  # fmt: skip

    once = Relation.IRREVERSIBLE
    return (
        rung("reduce computation depth", "depth", Override("scale", p.depth_by), SLOW, tries=p.depth_tries),
        rung("clear caches", "cache", Override("choose", "clear"), SLOW, relation=once),
        rung("restart the model", "worker", Override("choose", "restart"), SLOW_OR_SILENT, relation=once,
             due=ticks(p.restart_due)),
        rung("fall back to the PPO policy", "fallback", Override("choose", 1.0), SLOW_OR_SILENT, peel_after=BEHIND),
    )  # fmt: skip


def contingency(p: Params) -> None:
    """A person is asked to step in: nothing that is left would be the guard's to do."""


RISK = Risk("inference gets slower in production", "service", Params, watches, rungs, contingency)
