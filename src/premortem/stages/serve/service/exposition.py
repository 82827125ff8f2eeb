"""The service's figures for Prometheus."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from premortem.stages.serve.service.latency import ENOUGH, quantile_of
from premortem.stages.serve.service.reply import Policy

if TYPE_CHECKING:
    from premortem.stages.serve.service.service import Service

_BUCKETS_MS = (1, 2, 5, 10, 15, 20, 30, 40, 50, 75, 100, 150, 200, 300, 500, 1000, 2000, 5000)
_WINDOW, _WINDOW_S = 2000, 60.0
"""Requests and seconds that the quantiles look back. Their own window: a guard begins the service's samples anew with
every control that it turns, which is just when somebody wants to look. Small enough to be sorted on the loop."""
NOBODY = "none"
"""Policy of a request that ran out of time."""


class Exposition:
    """Registry of one service: a histogram that answers go into, and figures read when they are asked for."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.registry = CollectorRegistry()
        self._latency = Histogram(
            "inference_latency_ms",
            f"Milliseconds from acceptance to the end of it; policy {NOBODY!r}: without an answer in time.",
            ("policy", "task"),
            registry=self.registry, buckets=_BUCKETS_MS,
        )  # fmt: skip
        self._children: dict[tuple[str, Policy | None], Histogram] = {}
        self._recent: deque[tuple[float, float]] = deque(maxlen=_WINDOW)
        self.registry.register(self)
        service.book.watchers.append(self._observe)

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """Part of the registry's protocol: what is read when it is asked for."""
        yield self._quantiles()
        yield from self._gauges()
        yield from self._counters()
        yield from self._scores()

    def _observe(self, task: str, policy: Policy | None, waited_ms: float) -> None:
        child = self._children.get((task, policy))
        if child is None:
            child = self._children[task, policy] = self._latency.labels(policy or NOBODY, task)
        child.observe(waited_ms)
        self._recent.append((time.monotonic(), waited_ms))

    def _quantiles(self) -> Metric:
        since = time.monotonic() - _WINDOW_S
        ordered = sorted(waited_ms for ended_at, waited_ms in self._recent if ended_at >= since)
        quantiles = GaugeMetricFamily(
            "inference_latency_quantile_ms",
            f"Of the newest {_WINDOW} requests that ended within {_WINDOW_S:g} s, those without an answer in time "
            "counted; nothing with too few.",
            labels=["quantile"],
        )
        for share in ENOUGH:
            if (value := quantile_of(ordered, share)) is not None:
                quantiles.add_metric([f"{share:g}"], value)
        return quantiles

    def _gauges(self) -> Iterator[Metric]:
        service = self._service
        link = service.crew.current
        for name, words, value in (
            ("queue_length", "Accepted requests that wait.", service.pending),
            ("oldest_seconds", "Age of the oldest unanswered request.", service.oldest_s),
            ("worker_silent_seconds", "Since the last word of a worker that owes an answer.", service.silent_s),
            ("at_worker", "Puzzles that the worker has.", len(link.at_work) if link else 0),
            ("drain_per_second", "Answers a second under full batches.", service.drain.per_s or 0.0),
            ("cache_entries", "Answers that are kept.", len(service.cache)),
            ("depth_segments", "Segments of reasoning at most.", service.depth),
            ("ready", "1 where every task is answered.", float(service.is_ready)),
        ):
            yield GaugeMetricFamily(f"inference_{name}", words, value)

    def _counters(self) -> Iterator[Metric]:
        counts, crew = self._service.book.counts, self._service.crew
        for name, words, value in (
            ("accepted", "Requests accepted.", counts.accepted),
            ("withdrawn", "Accepted requests whose client did not wait.", counts.withdrawn),
            ("retried", "Requests asked of a second worker.", counts.retried),
            ("cache_hits", "Answers from the cache.", counts.cache_hits),
            ("worker_restarts", "Workers replaced.", crew.restarts),
            ("worker_deaths", "Workers that ended without being told to.", crew.deaths),
            ("worker_wedged", "Workers that the watchdog ended.", crew.wedged),
        ):
            yield CounterMetricFamily(f"inference_{name}", words, value)
        answered = CounterMetricFamily("inference_answered", "Requests answered.", labels=["policy"])
        for policy, count in counts.answered.items():
            answered.add_metric([policy], count)
        yield answered
        refused = CounterMetricFamily("inference_refused", "Requests refused.", labels=["reason", "accepted"])
        for was_accepted, reasons in (("no", counts.refused), ("yes", counts.broken)):
            for reason, count in reasons.items():
                refused.add_metric([reason, was_accepted], count)
        yield refused

    def _scores(self) -> Iterator[Metric]:
        solved = GaugeMetricFamily(
            "inference_solved_ratio", "Share of answers that are right.", labels=["task", "policy"]
        )
        for task, scores in self._service.book.scores.items():
            for policy, score in scores.items():
                solved.add_metric([task, policy], score.solve_rate or 0.0)
        yield solved
