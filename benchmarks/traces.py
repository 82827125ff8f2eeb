"""Public training curves: loading, the fault shapes added to healthy ones, synthetic streams, other systems' rules.

Data: ``$PREMORTEM_DATA`` or ``../shared/data`` beside the repository. Missing data is a reason to say "not run".
"""

from __future__ import annotations

import csv
import gzip
import math
import os
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Rows = list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Trace:
    """One run: its data order group and its training loss, one value a step (nats)."""

    run: int
    group: str
    record: str
    loss: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Shape:
    """A fault: the healthy loss and the steps since onset → the disturbed loss.

    ``delay_bound`` is the largest median delay in steps that counts as good, ``None`` where none is asked for.
    """

    name: str
    apply: Callable[[float, int], float]
    delay_bound: float | None


@dataclass(frozen=True, slots=True)
class IncidentLine:
    """One quoted log line of a large run; NaN where the log has no figure."""

    run: str
    section: str
    iteration: int
    loss: float
    gradient_norm: float


SHAPES = (
    Shape("+1.0, tau 20", lambda v, t: v + math.exp(-t / 20), 5),
    Shape("+1.0, tau 400", lambda v, t: v + math.exp(-t / 400), 5),
    Shape("+0.3, tau 50", lambda v, t: v + 0.3 * math.exp(-t / 50), 5),
    Shape("ramp +1 per 1,000", lambda v, t: v + t / 1000, 100),
    Shape("growth 0.5 %/step", lambda v, t: v * 1.005**t, 25),
    Shape("level +0.15", lambda v, t: v + 0.15, None),
    Shape("single step x3", lambda v, t: 3 * v if t == 0 else v, 5),
    Shape("NaN, one step", lambda v, t: math.nan if t == 0 else v, 5),
    Shape("NaN for ever", lambda v, t: math.nan, 5),
)


def data_folder(name: str) -> Path | None:
    """The folder of a data set, or ``None`` where it is missing."""
    root = os.environ.get("PREMORTEM_DATA")
    base = Path(root) if root else Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = base / name
    return folder if folder.is_dir() else None


def rows(path: Path) -> Rows:
    """All rows of a CSV file, gzipped or not."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def number(text: str | None) -> float:
    """A figure, NaN where the field is empty."""
    return float(text) if text else math.nan


def training_traces(folder: Path) -> list[Trace]:
    """Healthy per-step curves with their data order group, by run."""
    groups = {int(r["run_id"]): (r["order_group"], r["record"]) for r in rows(folder / "run_order_groups.csv")}
    losses: dict[int, list[tuple[int, float]]] = {}
    for r in rows(folder / "modded_nanogpt_train_curves.csv.gz"):
        losses.setdefault(int(r["run_id"]), []).append((int(r["step"]), float(r["train_loss"])))
    return [Trace(run, *groups[run], tuple(v for _, v in sorted(points))) for run, points in sorted(losses.items())]


def benign_steps(folder: Path) -> dict[str, set[int]]:
    """Steps, by data order group, where the batch makes (nearly) every run jump and heal in one step."""
    found: dict[str, set[int]] = {}
    for r in rows(folder / "benign_data_spikes.csv"):
        found.setdefault(r["order_group"], set()).add(int(r["step"]))
    return found


def incident_lines(folder: Path) -> list[IncidentLine]:
    """The quoted iteration lines of the BLOOM and 104B runs."""
    return [
        IncidentLine(r["run"], r["section"], int(r["iteration"]), number(r["lm_loss"]), number(r["grad_norm"]))
        for r in rows(folder / "bigscience_iteration_lines.csv")
    ]


class SigmaRule:
    """Value above mean + k sigma of the last ``window`` values, flagged ones included; NaN fails the comparison."""

    def __init__(self, k: float, window: int, least: int) -> None:
        self.k, self.least = k, least
        self.values: deque[float] = deque(maxlen=window)

    def step(self, value: float) -> tuple[bool, bool]:
        flagged = False
        count = len(self.values)
        if count >= self.least:
            mean = sum(self.values) / count
            sigma = math.sqrt(sum((v - mean) ** 2 for v in self.values) / (count - 1))
            flagged = not value <= mean + self.k * sigma
        self.values.append(value)
        return flagged, flagged


class KillLossSpike:
    """Over four losses in a row at twice the window's mean, or half the window above min(10, first window's max)."""

    def __init__(self, run_length: int) -> None:
        self.values: deque[float] = deque(maxlen=max(100, run_length // 20))
        self.cap = math.nan
        self.row = 0

    def step(self, value: float) -> tuple[bool, bool]:
        full = len(self.values) == self.values.maxlen
        flagged = False
        if full:
            if math.isnan(self.cap):
                self.cap = min(10.0, max(self.values))
            mean = sum(self.values) / len(self.values)
            self.row = self.row + 1 if value >= 2 * mean else 0
            high = sum(v > self.cap for v in self.values)
            flagged = self.row > 4 or high >= len(self.values) / 2
        self.values.append(value)
        return flagged, flagged


class Constant:
    """Always or never."""

    def __init__(self, *, fires: bool) -> None:
        self.fires = fires

    def step(self, value: float) -> tuple[bool, bool]:
        return self.fires, self.fires


def synthetic_streams(length: int = 2000) -> dict[str, Callable[[int], list[float]]]:
    """Healthy losses by seed: what public language-model curves do not contain."""

    def falling(seed: int, phi: float = 0.0, sigma: float = 0.03) -> list[float]:
        rng, noise, stream = random.Random(seed), 0.0, []
        for i in range(length):
            noise = phi * noise + rng.gauss(0.0, sigma * math.sqrt(1.0 - phi * phi))
            stream.append((1.5 + 8.0 * (i + 5) ** -0.5) * math.exp(noise))
        return stream

    def dropping(seed: int) -> list[float]:
        rng = random.Random(seed)
        return [2.3 * max(0.04, math.exp(-max(0, i - 600) / 30)) * math.exp(rng.gauss(0, 0.05)) for i in range(length)]

    def heavy(seed: int) -> list[float]:
        rng = random.Random(seed)
        return [2.0 * math.exp(0.05 * rng.gauss(0, 1) / math.sqrt(rng.gammavariate(1.5, 2 / 3))) for _ in range(length)]

    return {
        "falling, independent noise": falling,
        "drop, then flat": dropping,
        "flat, Student t3 noise": heavy,
        "falling, AR(0.5) noise": lambda seed: falling(seed, 0.5),
        "falling, AR(0.9) noise": lambda seed: falling(seed, 0.9),
        "falling, AR(0.98) noise": lambda seed: falling(seed, 0.98),
    }


def poisson_upper(events: int, exposure: float, confidence: float = 0.95) -> float:
    """One-sided upper limit of a rate from counted events (0 events: the rule of three, 3.0 / exposure)."""

    def tail(mean: float) -> float:
        term = total = math.exp(-mean)
        for k in range(1, events + 1):
            term *= mean / k
            total += term
        return total

    return _root(lambda mean: tail(mean) - (1.0 - confidence), 0.0, events + 10.0 * math.sqrt(events + 1) + 10.0) / (
        exposure
    )


def share_upper(hits: int, trials: int, confidence: float = 0.95) -> float:
    """One-sided Clopper-Pearson upper limit of a share."""
    if hits >= trials:
        return 1.0

    def at_most(p: float) -> float:
        return sum(math.comb(trials, k) * p**k * (1.0 - p) ** (trials - k) for k in range(hits + 1))

    return _root(lambda p: at_most(p) - (1.0 - confidence), 0.0, 1.0)


def share_lower(hits: int, trials: int, confidence: float = 0.95) -> float:
    """One-sided Clopper-Pearson lower limit of a share."""
    return 1.0 - share_upper(trials - hits, trials, confidence)


def _root(falling: Callable[[float], float], low: float, high: float) -> float:
    for _ in range(100):
        middle = (low + high) / 2.0
        if falling(middle) > 0.0:
            low = middle
        else:
            high = middle
    return (low + high) / 2.0
