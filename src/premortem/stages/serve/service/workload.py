"""The service as a workload: how fast it answers against its healthy baseline, and what can be turned.

It knows nothing of risks. A reading is taken whenever its caller asks, every half second say. Quantiles are of windows
of fresh requests, each counted in one window, all accepted after the last turn of a control; a window that is not full
yet goes on filling, and until the first one is full there is no value.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from premortem.core.action import Control
from premortem.core.signal import Signal
from premortem.parts.controls import OneShotRequest
from premortem.stages.serve.service.knobs import Depth, FallbackPolicy, Restart
from premortem.stages.serve.service.latency import ENOUGH, Samples, quantile_of
from premortem.stages.serve.service.latency_baseline import LatencyBaseline, key_of
from premortem.stages.serve.service.probe import Probe
from premortem.stages.serve.service.service import Service

SIGNALS = (
    Signal("latency_p50_ms", "ms", help="of the newest full window, from acceptance to the end of it"),
    Signal("latency_p95_ms", "ms", help="of the newest window of at least 200 requests"),
    Signal("latency_p99_ms", "ms", help="of the same window"),
    Signal("slowdown_p50", "× the baseline"),
    Signal("slowdown_p95", "× the baseline"),
    Signal("oldest_s", "s", help="age of the oldest unanswered request: silence under demand"),
    Signal("probe_slowdown", "× the baseline", help="median of canary requests to the worker, over the baseline's p50"),
    Signal("demand", "requests", higher_is_worse=False, help="accepted since the last reading"),
    Signal("queue_length", "requests"),
    Signal("refused", "requests", help="at the door and after acceptance, since the last reading"),
    Signal("fallback_share", "share", help="of the answers since the last reading"),
    Signal("depth_in_force", "segments", higher_is_worse=False, help="allowed to the newest puzzle at the worker"),
    Signal("cache_entries", "entries"),
)
HELD_S = 60.0
"""A window says nothing any more when no request has ended for so long."""


@dataclass(slots=True)
class _Window:
    """The newest full window of one size."""

    size: int
    consumed: int = 0
    marks: int = 0
    ordered: list[float] | None = None

    def take(self, samples: Samples) -> bool:
        """Whether a new one was filled."""
        if samples.marks != self.marks:
            self.marks, self.consumed, self.ordered = samples.marks, 0, None
        if samples.taken - self.consumed < self.size:
            return False
        self.ordered = samples.newest(samples.taken - self.consumed)
        self.consumed = samples.taken
        return True

    def quantile(self, share: float) -> float | None:
        return None if self.ordered is None else quantile_of(self.ordered, share)


class ServiceWorkload:
    """A :class:`Service`, read a row at a time.

    Args:
        service: started, and answering.
        baseline: what it is held against, given the key (:func:`key_of`); see :class:`LatencyBaseline`.
        median_of: requests of a window for the median, at least 30.
    """

    kind = "service"
    signals = SIGNALS
    witnesses: Mapping[str, str] = {"depth": "depth_in_force"}
    conditions: Mapping[str, Callable[[], bool | None]] = {}

    def __init__(self, service: Service, baseline: Callable[[str], LatencyBaseline], *, median_of: int = 100) -> None:
        self.service = service
        self.depth = Depth(service, self._turned)
        models = sorted(service.crew.models.values(), key=lambda model: model.task)
        names = (" + ".join(m.task for m in models), " + ".join(m.version.partition("@")[0] for m in models))
        self.baseline = baseline(key_of(*names, self.depth.base))
        self.probe = Probe(service)
        self._median = _Window(max(median_of, ENOUGH[0.5]))
        self._tail = _Window(ENOUGH[0.95])
        self._seen = self._counted()
        self._moved_at = time.monotonic()
        self._turns = 0
        self._asked_before = 0
        self._is_disturbed = True
        restart = Restart(service, self._turned)
        self.controls: Mapping[str, Control] = {
            "depth": self.depth,
            "cache": OneShotRequest(self._clear, self._was_cleared),
            "worker": OneShotRequest(restart.begin, restart.is_done),
            **({"fallback": FallbackPolicy(service, self._turned)} if service.dispatch.standins else {}),
        }
        self._cleared_as = -1

    def row(self) -> list[float | None]:
        """One value a signal, in the order of :data:`SIGNALS`. From any thread."""
        self._send_probe()
        now, before = self._counted(), self._seen
        self._seen = now
        since = Counter(now)
        since.subtract(before)
        self._fill(since)
        known = self.baseline.known
        p50, p95 = self._median.quantile(0.5), self._tail.quantile(0.95)
        answered = since["ppo"] + since["hrm"]
        healthy_p50 = None if known is None else known.p50_ms
        values: dict[str, float | None] = {
            "latency_p50_ms": p50,
            "latency_p95_ms": p95,
            "latency_p99_ms": self._tail.quantile(0.99),
            "slowdown_p50": _over(p50, healthy_p50),
            "slowdown_p95": _over(p95, None if known is None else known.p95_ms),
            "oldest_s": self.service.oldest_s,
            "probe_slowdown": _over(self.probe.p50_ms, healthy_p50),
            "demand": float(since["accepted"]),
            "queue_length": float(self.service.pending),
            "refused": float(since["refused"]),
            "fallback_share": since["ppo"] / answered if answered else None,
            "depth_in_force": self.depth.as_setting(self.service.dispatch.depth_in_force or self.service.depth),
            "cache_entries": float(len(self.service.cache)),
        }
        return [values[signal.name] for signal in SIGNALS]

    def rebaseline(self) -> None:
        """A person accepts a new normal: the baseline is learned again, from now on."""
        self.baseline.forget()
        self._turned()

    # --- windows -----------------------------------------------------------------------------

    def _fill(self, since: Counter[str]) -> None:
        samples = self.service.samples
        if self._asked_before:
            self._wait_for_the_old()
        if since["ended"]:
            self._moved_at = time.monotonic()
        elif time.monotonic() - self._moved_at > HELD_S:
            self._median.ordered = self._tail.ordered = None
        self._is_disturbed |= not self._is_usual(since)
        self._median.take(samples)
        if not self._tail.take(samples):
            return
        p50, p95 = self._tail.quantile(0.5), self._tail.quantile(0.95)
        if self._is_disturbed or p50 is None or p95 is None:
            self.baseline.disturbed()
        else:
            self.baseline.offer(p50, p95)
        self._is_disturbed = False

    def _wait_for_the_old(self) -> None:
        """Who stands in line behind requests of the old setting says nothing of the new one: begin after them."""
        if self.service.oldest_number > self._asked_before:
            self._asked_before = 0
        self.service.mark()
        self.probe.begin_anew()

    def _is_usual(self, since: Counter[str]) -> bool:
        """Whether nothing speaks against taking what is measured now for healthy."""
        service = self.service
        undisturbed = not since["refused"] and not since["ppo"] and not since["restarts"] and not since["turns"]
        return undisturbed and service.policy == "hrm" and service.depth == self.depth.base and service.is_ready

    def _counted(self) -> dict[str, int]:
        counts = self.service.book.counts
        answered, broken = dict(counts.answered), sum(dict(counts.broken).values())
        return {
            "accepted": counts.accepted,
            "hrm": answered.get("hrm", 0),
            "ppo": answered.get("ppo", 0),
            "refused": sum(dict(counts.refused).values()) + broken,
            "ended": sum(answered.values()) + broken,
            "restarts": self.service.restarts,
            "turns": getattr(self, "_turns", 0),
        }

    # --- controls ----------------------------------------------------------------------------

    def _turned(self) -> None:
        """Only requests accepted from now on say how the service does with the new setting."""
        self._turns += 1
        self._asked_before = self.service.book.counts.accepted
        self.service.mark()
        self.probe.begin_anew()

    def _clear(self, request: str) -> None:
        self._cleared_as = -1
        self.service.clear_cache()
        self._cleared_as = self.service.cache.clears
        self._turned()

    def _was_cleared(self) -> bool:
        """The cache itself counts its clearings; it may have filled again since."""
        return self._cleared_as == self.service.cache.clears

    def _send_probe(self) -> None:
        loop = self.service.loop
        if loop is not None and self.service.is_ready:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(self.probe.ask)


def _over(measured_ms: float | None, healthy_ms: float | None) -> float | None:
    return None if measured_ms is None or healthy_ms is None else measured_ms / healthy_ms


__all__ = ["HELD_S", "SIGNALS", "ServiceWorkload"]
