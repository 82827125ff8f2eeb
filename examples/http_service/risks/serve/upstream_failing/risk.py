"""What a service depends on fails or is too slow, and its own answers fail with it.

What fails
    The upstream refuses connections, hangs, or answers after the client's patience. Each answer that needs it is an
    error of ours.

Why it hurts
    Callers see our errors, not the upstream's. Retries without a bound make a slow upstream slower.

How it is seen
    The share of failed answers in a window of requests: RED above `failed_red`. The cause is seen apart, by probes of
    the upstream: YELLOW only, since an upstream that is away harms nobody while answers come from elsewhere.

Ladder
    try once more (taken back when it does not help: it doubles the load of an upstream in trouble) → answer from the
    cache → answer without a price. The last two stand until the probes are answered again, and are then taken off one
    by one, each verified.

Covered / not covered
    Covered: refusals, timeouts, wrong bodies. Not covered: an upstream that answers in time with wrong prices.

Drill
    `python examples/http_service/main.py`: a real second server behind a proxy that refuses, then delays.

Source
    Nygard, Release It!, 2nd edition 2018 (circuit breaker, fail fast, governor); Google SRE book 2016, chapter 22.
"""

from __future__ import annotations

from dataclasses import dataclass

from premortem.core.action import Override
from premortem.core.clock import ticks
from premortem.core.ladder import Relation, Rung
from premortem.core.risk import Risk, Watch
from premortem.parts.detectors import Threshold

FAILING = frozenset({"answers fail"})
CAUSE = "upstream answers"


@dataclass(frozen=True)
class Params:
    """Shares from 0 to 1; `confirm` and `deadline` in windows of requests."""

    failed_red: float = 0.15
    silent_yellow: float = 0.3
    confirm: int = 2
    deadline: int = 2


def watches(p: Params) -> tuple[Watch, ...]:
    """Our own answers open incidents; the upstream only says when a fallback may go."""
    return (
        Watch("answers", "failed", "answers fail", lambda: Threshold(red=p.failed_red)),
        Watch(CAUSE, "upstream_silent", "upstream is silent", lambda: Threshold(yellow=p.silent_yellow)),
    )


def rungs(p: Params) -> tuple[Rung, ...]:
    """From the one that costs callers nothing to the one that costs them the price."""

    def rung(name: str, control: str, to: float | str, relation: Relation = Relation.CUMULATIVE) -> Rung:
        return Rung(name, control, Override("choose", to), FAILING, relation, settle=ticks(0), confirm=p.confirm,
                    deadline=ticks(p.deadline), peel_after=CAUSE)  # fmt: skip

    return (
        rung("try once more", "retries", 1.0, Relation.ALTERNATIVE),
        rung("answer from the cache", "answers", "cached"),
        rung("answer without a price", "mode", "degraded"),
    )


RISK = Risk("a service fails with what it depends on", "http-service", Params, watches, rungs, lambda p: None)
