"""The service's figures for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from premortem.stages.serve.service.latency import ENOUGH
from premortem.stages.serve.service.reply import Policy

if TYPE_CHECKING:
    from premortem.stages.serve.service.service import Service

_BUCKETS_MS = (1, 2, 5, 10, 15, 20, 30, 40, 50, 75, 100, 150, 200, 300, 500, 1000, 2000, 5000)


class Exposition:
    """Registry of one service: a histogram that answers go into, and figures read when they are asked for."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.registry = CollectorRegistry()
        self._latency = Histogram(
            "inference_latency_ms", "Milliseconds from acceptance to answer.", ("policy", "task"),
            registry=self.registry, buckets=_BUCKETS_MS,
        )  # fmt: skip
        self._children: dict[tuple[str, Policy], Histogram] = {}
        self.registry.register(self)
        service.book.watchers.append(self._observe)

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """Part of the registry's protocol: what is read when it is asked for."""
        yield from self._gauges()
        yield from self._counters()
        yield from self._scores()

    def _observe(self, task: str, policy: Policy, waited_ms: float) -> None:
        child = self._children.get((task, policy))
        if child is None:
            child = self._children[task, policy] = self._latency.labels(policy, task)
        child.observe(waited_ms)

    def _gauges(self) -> Iterator[Metric]:
        service = self._service
        quantiles = GaugeMetricFamily(
            "inference_latency_quantile_ms", "Of the newest answers; nothing with too few samples.", labels=["quantile"]
        )
        for share in ENOUGH:
            if (value := service.samples.quantile(share)) is not None:
                quantiles.add_metric([f"{share:g}"], value)
        yield quantiles
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
