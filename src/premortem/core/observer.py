"""Runs every detector over one row of observations and reports changes: the hot path of the kernel."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence

from premortem.core.clock import Now
from premortem.core.detector import Detector, Foresees, HearsSilence, Level
from premortem.core.finding import Finding
from premortem.core.plan import BoundWatch, Plan

Change = tuple[int, Level | None, Level | None]


class Observer:
    """Holds the detectors and the last assessment of each.

    An exception inside a detector never reaches the workload: the watch goes inconclusive and the exception
    becomes a finding about the guard (law 8), once per watch.
    """

    def __init__(self, plan: Plan) -> None:
        self.watches: tuple[BoundWatch, ...] = plan.watches
        self.detectors: list[Detector] = [w.watch.detector() for w in plan.watches]
        self.levels: list[Level | None] = [None] * len(self.detectors)
        self.faults: dict[int, str] = {}
        self._reported: set[int] = set()
        self.started_fresh: list[str] = []
        self.names = [f"{w.entry}/{w.risk}/{w.watch.name}" for w in plan.watches]
        self._last_beat: dict[int, float] = {}
        self._listening: list[tuple[int, int, HearsSilence]] = []
        self._foreseeing: dict[int, Foresees] = {}
        self._hot: list[tuple[int, int, Callable[[float], Level | None]]] = []
        self._arm()

    def observe(self, values: Sequence[float | None], seconds: float = 0.0) -> list[Change]:
        """Feed one row of this moment; returns (watch, before, after) for each assessment that changed."""
        levels = self.levels
        changes: list[Change] = []
        index = 0
        try:
            for index, slot, observe in self._hot:
                value = values[slot]
                level = None if value is None else observe(value)
                before = levels[index]
                if level is not before:
                    levels[index] = level
                    changes.append((index, before, level))
        except Exception as error:
            self._drop(index, error, changes)
            rest = [h for h in self._hot if h[0] > index]
            self._arm()
            for later, slot, observe in rest:
                self._observe_one(later, values[slot], observe, changes)
        if self._listening:
            self._listen(values, seconds, changes)
        return changes

    def finding(self, change: Change, values: Sequence[float | None], now: Now) -> Finding:
        """Put a change into words."""
        index, before, level = change
        bound = self.watches[index]
        watch = bound.watch
        value = values[bound.slot]
        return Finding(bound.entry, bound.risk, watch.name, watch.signal, watch.symptom, level, before, value, now)

    def new_faults(self) -> list[tuple[int, str]]:
        """Detectors that raised since last asked."""
        if not self.faults:
            return []
        new = [(i, text) for i, text in self.faults.items() if i not in self._reported]
        self._reported.update(i for i, _ in new)
        return new

    def symptoms(self, watches: set[int]) -> set[str]:
        """Symptoms that are RED or worse now, among the given watches."""
        found = set()
        for i in watches:
            level = self.levels[i]
            if level is not None and level >= Level.RED:
                found.add(self.watches[i].watch.symptom)
        return found

    def assess(self, watches: set[int]) -> bool | None:
        """True: all GREEN. False: at least one RED or worse, or YELLOW. None: inconclusive."""
        levels = [self.levels[i] for i in watches]
        if any(level is not None and level > Level.GREEN for level in levels):
            return False
        return None if any(level is None for level in levels) else True

    def left(self, watches: set[int]) -> float:
        """Observations until one that is RED now reaches its limit; infinite where none foresees that."""
        levels = self.levels
        red = (i for i in watches if i in self._foreseeing and (levels[i] or Level.GREEN) >= Level.RED)
        return min((self._foreseeing[i].left() for i in red), default=math.inf)

    def of_entry(self, entry: str) -> set[int]:
        """The watches of an entry."""
        return {i for i, w in enumerate(self.watches) if w.entry == entry}

    def restart(self) -> None:
        """Begin all detectors anew (a new normal was accepted)."""
        for i, bound in enumerate(self.watches):
            self.detectors[i] = bound.watch.detector()
            self.levels[i] = None
        self.faults.clear()
        self._reported.clear()
        self._last_beat.clear()
        self._arm()

    def state(self) -> dict[str, object]:
        """Detector windows, keyed by watch and by a hash of what the detector was built with."""
        keys = [self._key(i) for i in range(len(self.detectors))]
        return {key: d.state() for key, d in zip(keys, self.detectors, strict=True)}

    def load(self, state: dict[str, object]) -> list[str]:
        """Resume; returns the watches that start fresh because their parameters differ or a number is lost."""
        fresh = []
        for i, bound in enumerate(self.watches):
            saved = state.get(self._key(i))
            try:
                if not isinstance(saved, dict):
                    raise KeyError(bound.watch.name)
                self.detectors[i].load(saved)
            except (KeyError, TypeError, ValueError):
                self.detectors[i] = bound.watch.detector()
                self.levels[i] = None
                fresh.append(self.names[i])
        self.started_fresh = fresh
        self._arm()
        return fresh

    def _arm(self) -> None:
        sound = [(i, bound.slot, self.detectors[i]) for i, bound in enumerate(self.watches) if i not in self.faults]
        self._hot = [(i, slot, d.observe) for i, slot, d in sound if not isinstance(d, HearsSilence)]
        self._listening = [(i, slot, d) for i, slot, d in sound if isinstance(d, HearsSilence)]
        self._foreseeing = {i: d for i, _, d in sound if isinstance(d, Foresees)}

    def _listen(self, values: Sequence[float | None], seconds: float, changes: list[Change]) -> None:
        """Where a detector hears silence, a missing value is assessed by how long it has been missing."""
        for index, slot, detector in list(self._listening):
            value = values[slot]
            if value is None or value != value:
                silence = seconds - self._last_beat.setdefault(index, seconds)
                self._observe_one(index, silence, detector.missing, changes)
            else:
                self._last_beat[index] = seconds
                self._observe_one(index, value, self.detectors[index].observe, changes)

    def _observe_one(
        self,
        index: int,
        value: float | None,
        observe: Callable[[float], Level | None],
        changes: list[Change],
    ) -> None:
        try:
            level = None if value is None else observe(value)
        except Exception as error:
            self._drop(index, error, changes)
            self._arm()
            return
        if level is not self.levels[index]:
            changes.append((index, self.levels[index], level))
            self.levels[index] = level

    def _drop(self, index: int, error: Exception, changes: list[Change]) -> None:
        self.faults[index] = f"{type(error).__name__}: {error}"
        if self.levels[index] is not None:
            changes.append((index, self.levels[index], None))
            self.levels[index] = None

    def _key(self, index: int) -> str:
        params = getattr(self.detectors[index], "params", {})
        built = [type(self.detectors[index]).__name__, params]
        digest = hashlib.sha256(json.dumps(built, sort_keys=True, default=repr).encode()).hexdigest()[:8]
        return f"{self.names[index]}@{digest}"
