"""Four real causes of slowness in a real service with a worker process, each recovered by another rung.

Each arm has a service, its worker and open-loop clients of its own; it learns its healthy baseline first, then the
fault comes. Run it on a machine that has nothing else to do: what else wants the processor is a cause of its own.
"""

from __future__ import annotations

from premortem.core.drill import Bounds
from premortem.faults.cpu import CpuHogs
from premortem.faults.fault import Fault
from premortem.risks.case import Ticking, WatchedCase
from premortem.risks.serve.slow_inference.causes import BloatedCache, HeavierModel, Wedged
from premortem.risks.serve.slow_inference.scene import CONFIG, PERIOD_S, Scene, seeded_model

AT = 32
"""Eight seconds: five windows of 200 requests for the baseline, and a little more."""
NUM_TICKS = 145
HOGS = 2
ENTRIES = 1_600_000
LAYERS = 8
PARAMS = {"serve/slow-inference": {"depth_by": 0.25, "depth_tries": 1, "deadline": 15, "restart_due": 60}}
"""Deadlines for 200 requests a second; the depth is cut in one step, for the time that a drill takes."""


def town(seed: int) -> Ticking:
    """A service and its clients."""
    scene = Scene(seed)
    return Ticking(
        workload=scene.workload,
        advance=scene.advance,
        outcome=lambda: scene.missed(AT),
        subject=scene,
        digest=lambda: scene.digest(NUM_TICKS * PERIOD_S),
        close=scene.close,
    )


def _scene(run: Ticking) -> Scene:
    assert isinstance(run.subject, Scene)
    return run.subject


def contention(run: Ticking) -> Fault:
    """Neighbours on the worker's core."""
    return CpuHogs(HOGS, _scene(run).service.worker_pid)


def bloat(run: Ticking) -> Fault:
    """Every full collection takes a good part of a second."""
    return BloatedCache(_scene(run).service, ENTRIES)


def wedged(run: Ticking) -> Fault:
    """SIGSTOP: the process is there, and says nothing."""
    return Wedged(_scene(run).service)


def heavier(run: Ticking) -> Fault:
    """Slow after every restart, and slow at a quarter of the depth."""
    scene = _scene(run)
    fault = HeavierModel(scene.service, scene.bundle, LAYERS)
    fault.prepare(seeded_model(CONFIG, scene.seed))
    return fault


def _case(name: str, fault, detect_within: int, absolute: float) -> WatchedCase:  # type: ignore[no-untyped-def]
    return WatchedCase(name=name, build=town, fault=fault, at=AT, lasts=10**6, num_ticks=NUM_TICKS, params=PARAMS,
                       bounds=Bounds(detect_within=detect_within, absolute=absolute))  # fmt: skip


CASES = (
    _case("CPU contention", contention, 16, 0.25),
    _case("cache bloat", bloat, 20, 0.25),
    _case("wedged worker", wedged, 8, 0.25),
    _case("a model that stays slow", heavier, 16, 0.5),
)
"""Time until a rung helps is time in which clients are not served: a climb to the last rung takes longest."""
