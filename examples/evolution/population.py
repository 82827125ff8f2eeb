"""A genetic search for the minimum of Rastrigin's function: 60 real vectors of 10 genes. It knows nothing of risks."""

from __future__ import annotations

import numpy as np

from premortem.core.signal import Signal
from premortem.parts.controls import HeldSetting, OneShotRequest

SIZE, GENES, REACH = 60, 10, 5.12


def rastrigin(population: np.ndarray) -> np.ndarray:
    """Fitness of each row, 0 at best; thousands of local minima."""
    waves = population**2 - 10.0 * np.cos(2.0 * np.pi * population)
    return 10.0 * population.shape[1] + waves.sum(axis=1)


class Population:
    """Tournaments of two, blended pairs, Gaussian mutation whose width shrinks by the generation; two elites."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self.members = self._strangers(SIZE)
        self.archive = self.members[:2].copy()
        self.generation = 0
        self.floor = 0.0
        """The least width of a mutation, in the genes' own unit; what the guard turns."""
        self.haste, self.mutates = 1.0, True
        """What faults change: how fast the width shrinks, and whether mutation does anything at all."""

    def step(self) -> dict[str, float | None]:
        """One generation; returns what was measured on it."""
        self.generation += 1
        fitness = rastrigin(self.members)
        self._remember(fitness)
        first, second = (self._winners(fitness) for _ in range(2))
        share = self._rng.random((SIZE, GENES))
        children = share * self.members[first] + (1.0 - share) * self.members[second]
        if self.mutates:
            width = max(0.5 * 0.995 ** (self.generation * self.haste), self.floor)
            touched = self._rng.random((SIZE, GENES)) < 0.2
            children += touched * self._rng.normal(scale=width, size=children.shape)
        children[:2] = self.members[np.argsort(fitness)[:2]]
        self.members = np.clip(children, -REACH, REACH)
        best, known = float(rastrigin(self.members).min()), float(rastrigin(self.archive).min())
        return {"diversity": float(self.members.std(axis=0).mean()), "best": best, "behind": best / max(known, 1e-9)}

    def immigrate(self, request: str) -> None:
        """Replace all but the better third by strangers."""
        order = np.argsort(rastrigin(self.members))
        self.members[order[SIZE // 3 :]] = self._strangers(SIZE - SIZE // 3)

    def restart(self, request: str) -> None:
        """Begin again from the best ever seen, with strangers around them."""
        self.members = self._strangers(SIZE)
        self.members[: len(self.archive)] = self.archive

    def forget(self) -> None:
        """The fault of a wrong restore: strangers only, as in generation 0."""
        self.members = self._strangers(SIZE)

    def _strangers(self, count: int) -> np.ndarray:
        return self._rng.uniform(-REACH, REACH, (count, GENES))

    def _winners(self, fitness: np.ndarray) -> np.ndarray:
        pairs = self._rng.integers(0, SIZE, (SIZE, 2))
        return pairs[np.arange(SIZE), np.argmin(fitness[pairs], axis=1)]

    def _remember(self, fitness: np.ndarray) -> None:
        everyone = np.concatenate([self.archive, self.members[np.argsort(fitness)[:2]]])
        self.archive = np.unique(everyone, axis=0)[np.argsort(rastrigin(np.unique(everyone, axis=0)))[:8]]


class Evolution:
    """The population as the guard sees it. A tick is a generation."""

    kind = "population"
    signals = (
        Signal("diversity", "std of a gene", higher_is_worse=False),
        Signal("best", "fitness"),
        Signal("behind", "of the best ever", help="the best of this generation over the best in the archive"),
    )

    def __init__(self, population: Population) -> None:
        def widen(floor: float | str) -> None:
            population.floor = float(floor)

        def is_alive() -> bool:
            return bool(np.isfinite(population.members).all())

        self.controls = {
            "mutation": HeldSetting(0.0, widen, lambda: population.floor),
            "immigrants": OneShotRequest(population.immigrate, is_alive),
            "members": OneShotRequest(population.restart, is_alive),
        }
        self.witnesses: dict[str, str] = {}
        self.conditions: dict[str, object] = {}
