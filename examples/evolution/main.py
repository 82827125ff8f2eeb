"""A population under evolution that collapses twice and is overwritten once, each mended by another rung.

python examples/evolution/main.py [--fault none] [--home FOLDER]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from population import Evolution, Population, rastrigin

import premortem
from premortem.run.evidence import incidents
from premortem.run.watching import Watch

HERE = Path(__file__).parent
GENERATIONS = 260


def disturb(population: Population, generation: int) -> None:
    """What goes wrong, and when: operators that are broken for a time, and one restore of the wrong members."""
    if generation in (60, 120, 200):
        print(f"-- generation {generation}: {FAULTS[generation]}")
    population.haste = 40.0 if 60 <= generation < 75 else 1.0
    population.mutates = not 120 <= generation < 133
    if generation == 120:
        population.members[:] = population.members[0]
    if generation == 200:
        population.forget()


FAULTS = {
    60: "mutation shrinks 40 times too fast",
    120: "all members become one, and mutation does nothing",
    200: "the members are overwritten by strangers",
}


def search(population: Population, watch: Watch | None, *, faulty: bool) -> float:
    """All generations; returns the best fitness of the last one."""
    for generation in range(1, GENERATIONS + 1):
        if faulty:
            disturb(population, generation)
        row = population.step()
        if watch is not None:
            watch.tick(row)
    return float(rastrigin(population.members).min())


def main() -> None:
    """Search under guard, and once more without it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fault", choices=("operators", "none"), default="operators")
    parser.add_argument("--home", type=Path, help="the folder of the ledger; a temporary one when left out")
    asked = parser.parse_args()
    faulty = asked.fault != "none"
    with tempfile.TemporaryDirectory() as folder:
        population = Population(seed=1)
        guard = premortem.Guard(HERE / "register.yaml", risks=HERE / "risks")
        with guard.watching(Evolution(population), home=asked.home or Path(folder), say=print) as watch:
            best = search(population, watch, faulty=faulty)
            for found in incidents(watch.ledger):
                tried = ", ".join(f"{rung.rung}: {rung.verdict}" for rung in found.rungs)
                print(f"incident {found.number}: {found.verdict} after {found.after_rung!r} ({tried})")
            print("healthy at the end" if watch.standing.is_healthy else "not healthy at the end")
    print(f"best fitness: guarded {best:.3g}, unguarded {search(Population(seed=1), None, faulty=faulty):.3g}")


if __name__ == "__main__":
    main()
