"""Inference gets slower in production.

What fails
    A service that answers requests takes longer than it used to: neighbours that want the same processor, a cache
    that grew until looking after it costs more than it saves, a worker that hangs, a model that is heavier than the
    one before.

Why it hurts
    An answer that comes too late is no answer: clients give up, ask again, and make it worse. Nothing has failed, so
    nothing is in any log.

How it is seen
    At every reading, from the time between acceptance and answer: p50 and p95 over a baseline that was learned when
    the service was healthy and kept in a file, so that it outlives the process. RED above 1.3 × the baseline, in 3
    windows in a row (`enough` of the last `of`); a p95 needs 200 requests, each counted in one window.
    Slower only: faster is reported (YELLOW) and never mitigated. A worker that says nothing has no latencies to show:
    it is seen by the age of the oldest unanswered request, RED above 1 s. Without a baseline nothing is known.

Ladder
    reduce the computation depth (halved, twice) → clear the caches → restart the worker → fall back to the PPO
    policy. Every turn begins the latencies anew: only requests that were accepted afterwards say whether it helped. A
    silent worker is mended by a restart, at once, or by the fallback, by nothing else; a slow one answers until the
    one that replaces it is warm. The fallback stands until canary
    requests to the worker, at a low rate beside the clients, show that the model is fast again; then it and the depth
    are taken back, each verified. When all are spent, a person is asked to step in.

Covered / not covered
    Covered: everything between acceptance and answer, in this service and its worker; clients that were refused or
    ran out of time count as slow ones. Not covered: the network in front; a change of traffic to harder puzzles,
    which looks the same; whether shallower answers, or the fallback's, are good enough (the service tells how many
    are right, by policy). Less traffic than about 10 requests a second needs longer deadlines. A first start that is
    slow already can become the baseline: look at it once.

Drill
    A real service with a worker process and clients that do not wait for each other: processes that compete for the
    worker's core, a cache of hundreds of thousands of answers, a stopped worker, a heavier model of the same name.
    Outcome: the share of requests that were late, wrong or refused since the fault came.

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
    """``excess`` over the baseline as a share; ``silent_s`` in seconds; windows of requests; deadlines in readings."""

    excess: float = 0.3
    p50_enough: int = 3
    p50_of: int = 3
    p95_enough: int = 3
    p95_of: int = 3
    silent_s: float = 1.0
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
        if not 0 < self.depth_by < 1:
            raise ValueError(f"found depth_by {self.depth_by}, expected a factor between 0 and 1")


def watches(p: Params) -> tuple[Watch, ...]:
    """Slower than it was, silent, and what is only reported."""
    slower, faster = 1.0 + p.excess, 1.0 / (1.0 + p.excess)
    return (
        Watch("p50 over its baseline", "slowdown_p50", "slow",
              lambda: AgreeingWindows(bound=slower, enough=p.p50_enough, of=p.p50_of)),
        Watch("p95 over its baseline", "slowdown_p95", "slow",
              lambda: AgreeingWindows(bound=slower, enough=p.p95_enough, of=p.p95_of)),
        Watch("silent worker", "oldest_s", "silent", lambda: Threshold(red=p.silent_s)),
        Watch("faster than the baseline", "slowdown_p50", "faster",
              lambda: AgreeingWindows(bound=faster, enough=p.p50_enough, of=p.p50_of, mild=1.0, below=1.0),
              required=False),
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
