"""A restore takes detectors back into their warm-up: that is no silence, and not for ever either."""

from __future__ import annotations

from kernel_world import make_world

from premortem.core.detector import Level
from premortem.core.plan import BoundWatch
from premortem.core.risk import Watch


class Slow:
    """RED above 2, and silent for ``rest`` values after it was told to rest."""

    rest = 0

    def observe(self, value: float) -> Level | None:
        if Slow.rest:
            Slow.rest -= 1
            return None
        return Level.RED if value > 2.0 else Level.GREEN

    def state(self) -> dict[str, float]:
        return {}

    def load(self, state: dict[str, float]) -> None:
        """Nothing."""


def verifying(rest: int):
    Slow.rest = 0
    watch = BoundWatch("HEAT", "t/heat", Watch("slow", "heat", "hot", Slow), 0)
    world = make_world()
    world = make_world(watches=(watch, *world.plan.watches[2:]))
    world.run(40)
    world.plant.fault_on = True
    world.run(500, until="verifying")
    Slow.rest = rest
    return world


def test_a_verification_waits_for_a_detector_that_warms_up():
    world = verifying(rest=90)
    world.run(92)
    assert world.phase() == "verifying"
    world.run(20, until="relapse watch")
    assert world.phase() == "relapse watch"


def test_a_detector_that_never_speaks_again_is_silence():
    world = verifying(rest=10_000)
    world.run(400)
    assert world.phase() == "handed over"
    assert "silence is not health" in world.incident.reason
