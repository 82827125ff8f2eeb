"""The service as a workload: how fast it answers against its healthy baseline, and what can be turned.

It knows nothing of risks. A reading is taken whenever its caller asks, every half second say. Quantiles are of windows
of fresh requests, each counted in one window, all accepted after the last turn of a control; a window that is not full
yet goes on filling, and until the first one is full there is no value. Answers from the cache are in none of them.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping

from premortem.core.action import Control
from premortem.core.signal import Signal
from premortem.parts.controls import OneShotRequest
from premortem.stages.serve.service.fresh import AskedWindow, LatencyWindow
from premortem.stages.serve.service.knobs import Depth, FallbackPolicy, Restart
from premortem.stages.serve.service.latency import ENOUGH
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
    Signal("probe_slowdown", "× the baseline", help="median of canary requests to the worker, over the healthy one"),
    Signal("refused_share", "share", help="of the newest 400 who asked: at the door, and after acceptance"),
    Signal("load", "× the baseline", help="requests a second, over those under which the baseline was learned"),
    Signal("demand", "requests", higher_is_worse=False, help="accepted since the last reading"),
    Signal("queue_length", "requests"),
    Signal("refused", "requests", help="at the door and after acceptance, since the last reading"),
    Signal("fallback_share", "share", help="of the answers since the last reading"),
    Signal("cached_share", "share", higher_is_worse=False, help="of the answers since the last reading"),
    Signal(
        "depth_in_force",
        "segments",
        higher_is_worse=False,
        help="by the setting under which the worker was asked its newest puzzle",
    ),
    Signal("cache_entries", "entries"),
)
_ASKED = 400
"""Requests of a window of who asked."""
MORE_LOAD = 2.0
"""Beyond so many times the requests a second under which the baseline was learned, slower is no finding: the load is
another one. What clients feel then is seen by who is turned away, and by the oldest request."""


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
        self._median = LatencyWindow(max(median_of, ENOUGH[0.5]))
        self._tail = LatencyWindow(ENOUGH[0.95])
        self._asked = AskedWindow(_ASKED)
        self._turning = threading.Lock()
        self._turns = 0
        self._asked_before = 0
        self._is_disturbed = True
        self._seen = self._counted()
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
        known, load = self.baseline.known, self._load
        p50, p95 = self._median.quantile(0.5), self._tail.quantile(0.95)
        answered = since["ppo"] + since["hrm"]
        same = known if load is None or load <= MORE_LOAD else None
        values: dict[str, float | None] = {
            "latency_p50_ms": p50,
            "latency_p95_ms": p95,
            "latency_p99_ms": self._tail.quantile(0.99),
            "slowdown_p50": _over(p50, None if same is None else same.p50_ms),
            "slowdown_p95": _over(p95, None if same is None else same.p95_ms),
            "oldest_s": self.service.oldest_s,
            "probe_slowdown": _over(self.probe.p50_ms, None if known is None else known.canary_ms or known.p50_ms),
            "refused_share": self._asked.refused_share,
            "load": load,
            "demand": float(since["accepted"]),
            "queue_length": float(self.service.pending),
            "refused": float(since["refused"] + since["broken"]),
            "fallback_share": since["ppo"] / answered if answered else None,
            "cached_share": since["cached"] / answered if answered else None,
            "depth_in_force": self.depth.as_setting(self.service.dispatch.depth_in_force or self.service.depth),
            "cache_entries": float(len(self.service.cache)),
        }
        return [values[signal.name] for signal in SIGNALS]

    def rebaseline(self) -> None:
        """A person accepts a new normal: the baseline is learned again, from now on."""
        self.baseline.forget()
        self._turned()

    # --- windows -----------------------------------------------------------------------------

    @property
    def _load(self) -> float | None:
        known = self.baseline.known
        return None if known is None or known.per_s is None else _over(self._asked.per_s, known.per_s)

    def _fill(self, since: Counter[str]) -> None:
        samples, now, seen = self.service.samples, time.monotonic(), self._seen
        if self._asked_before:
            self._wait_for_the_old()
        self._asked.take(seen["accepted"], seen["refused"], seen["broken"], now)
        self._is_disturbed |= not self._is_usual(since)
        self._median.take(samples, now)
        if not self._tail.take(samples, now):
            return
        p50, p95 = self._tail.quantile(0.5), self._tail.quantile(0.95)
        if self._is_disturbed or p50 is None or p95 is None:
            self.baseline.disturbed()
        else:
            self.baseline.offer(p50, p95, self.probe.p50_ms, self._asked.per_s)
        self._is_disturbed = False

    def _wait_for_the_old(self) -> None:
        """Who stands in line behind requests of the old setting says nothing of the new one: begin after them."""
        with self._turning:
            if self.service.oldest_number > self._asked_before:
                self._asked_before = 0
            self._begin_anew()

    def _begin_anew(self) -> None:
        self.service.mark()
        self.probe.begin_anew()
        self._asked.begin_anew()

    def _is_usual(self, since: Counter[str]) -> bool:
        """Whether nothing speaks against taking what is measured now for healthy."""
        service = self.service
        turned_away = since["refused"] or since["broken"]
        undisturbed = not turned_away and not since["ppo"] and not since["restarts"] and not since["turns"]
        is_steady = service.is_ready and not service.crew.is_changing
        return undisturbed and service.policy == "hrm" and service.depth == self.depth.base and is_steady

    def _counted(self) -> dict[str, int]:
        counts = self.service.book.counts
        answered = dict(counts.answered)
        return {
            "accepted": counts.accepted,
            "hrm": answered.get("hrm", 0),
            "ppo": answered.get("ppo", 0),
            "cached": counts.cache_hits,
            "refused": sum(dict(counts.refused).values()),
            "broken": sum(dict(counts.broken).values()),
            "restarts": self.service.restarts,
            "turns": self._turns,
        }

    # --- controls ----------------------------------------------------------------------------

    def _turned(self) -> None:
        """Only requests accepted from now on say how the service does with the new setting."""
        with self._turning:  # a reading on the loop must not take it for the turn before
            self._turns += 1
            self._asked_before = self.service.book.counts.accepted
            self._begin_anew()

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


__all__ = ["MORE_LOAD", "SIGNALS", "ServiceWorkload"]
