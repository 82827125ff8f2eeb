"""Collapse after memorising, from the training loss alone: the product's detector, cross-validated by study.

Label: a run collapses when, after training accuracy first reached 0.99, it falls below 0.90. The detector never sees
accuracy; its three bounds are fitted on the other studies (logistic regression of "accuracy below 0.9" on log loss,
pooled over observations) and scored on the study left out. Run: ``python benchmarks/grokking.py [--json]``.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

from premortem.core.detector import Level
from premortem.parts.detectors import Collapse
from traces import data_folder, number, rows, share_lower, share_upper

RISKS = {"memorised": 0.001, "yellow": 0.01, "red": 0.1}  # P(accuracy < 0.9) at each bound


@dataclass(frozen=True, slots=True)
class Point:
    """One logged evaluation: loss in nats, accuracy as a share, L2 norm of all weights."""

    step: int
    loss: float
    accuracy: float
    norm: float


@dataclass(frozen=True, slots=True)
class Run:
    """A run with its label: ``collapse`` is the step of the first collapse, ``None`` without one."""

    run: int
    study: str
    points: tuple[Point, ...]
    memorised: int | None
    collapse: int | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a rule said of one run: steps of its first YELLOW and first RED."""

    run: int
    study: str
    collapse: int | None
    yellow: int | None
    red: int | None
    loss_at_red: float
    accuracy_at_red: float


@dataclass(frozen=True, slots=True)
class Score:
    """Collapsing runs found, others accused, with one-sided 95 % limits."""

    rule: str
    found: int
    collapsing: int
    found_lower95: float
    accused: int
    others: int
    accused_upper95: float


def load(folder: Path) -> list[Run]:
    """All runs with derived labels, by run."""
    studies = {int(r["run_id"]): r["study"] for r in rows(folder / "runs.csv")}
    points: dict[int, list[Point]] = {}
    for r in rows(folder / "curves.csv.gz"):
        point = Point(int(r["step"]), number(r["train_loss"]), number(r["train_acc"]), number(r["weight_norm"]))
        points.setdefault(int(r["run_id"]), []).append(point)
    return [_labelled(run, studies[run], tuple(ps)) for run, ps in sorted(points.items())]


def _labelled(run: int, study: str, points: tuple[Point, ...]) -> Run:
    memorised = next((p.step for p in points if p.accuracy >= 0.99), None)
    after = [] if memorised is None else [p for p in points if p.step > memorised]
    return Run(run, study, points, memorised, next((p.step for p in after if p.accuracy < 0.9), None))


def fit(runs: Sequence[Run]) -> tuple[float, float]:
    """Newton's method for P(accuracy < 0.9) = 1 / (1 + exp(-(a + b log loss))) on points after memorising.

    Losses below 0.02 are left out: accuracy is never below 0.9 there, and they would only weigh.
    """
    data = [
        (math.log(p.loss), float(p.accuracy < 0.9))
        for r in runs
        if r.memorised is not None
        for p in r.points
        if p.step > r.memorised and p.loss > 0.02
    ]
    a = b = 0.0
    for _ in range(30):
        ga = gb = h_aa = h_ab = h_bb = 0.0
        for x, y in data:
            p = 1.0 / (1.0 + math.exp(-(a + b * x)))
            w = p * (1.0 - p) + 1e-12
            ga, gb = ga + y - p, gb + (y - p) * x
            h_aa, h_ab, h_bb = h_aa + w, h_ab + w * x, h_bb + w * x * x
        determinant = h_aa * h_bb - h_ab * h_ab
        a, b = a + (h_bb * ga - h_ab * gb) / determinant, b + (h_aa * gb - h_ab * ga) / determinant
    return a, b


def bounds(fitted: tuple[float, float], red: float) -> dict[str, float]:
    """The losses at which the fitted probability equals each risk."""
    a, b = fitted
    risks = RISKS | {"red": red}
    return {name: math.exp((math.log(p / (1.0 - p)) - a) / b) for name, p in risks.items()}


def watch(run: Run, detector: Collapse) -> Verdict:
    """Feed one run online, as logged."""
    first: dict[Level, Point] = {}
    for point in run.points:
        level = detector.observe(point.loss)
        for at in (Level.YELLOW, Level.RED):
            if level is not None and level >= at:
                first.setdefault(at, point)
    yellow, red = first.get(Level.YELLOW), first.get(Level.RED)
    return Verdict(
        run.run,
        run.study,
        run.collapse,
        yellow.step if yellow else None,
        red.step if red else None,
        red.loss if red else math.nan,
        red.accuracy if red else math.nan,
    )


def folds(runs: Sequence[Run]) -> list[tuple[str, list[Run], list[Run]]]:
    """(study, the other studies' runs, its own runs)."""
    studies = sorted({r.study for r in runs})
    return [(s, [r for r in runs if r.study != s], [r for r in runs if r.study == s]) for s in studies]


def score(name: str, verdicts: Sequence[tuple[bool, bool]]) -> Score:
    """From (collapses, accused) of every run."""
    collapsing = sum(c for c, _ in verdicts)
    found, accused = sum(c and v for c, v in verdicts), sum(v and not c for c, v in verdicts)
    others = len(verdicts) - collapsing
    return Score(
        name,
        found,
        collapsing,
        share_lower(found, collapsing),
        accused,
        others,
        share_upper(accused, others),
    )


def plain(name: str, statistic: Callable[[Run], float], runs: Sequence[Run]) -> Score:
    """A threshold on one figure a run, the best on the other studies (found share less accused share)."""
    verdicts = []
    for _, others, own in folds(runs):
        figures = [(statistic(r), r.collapse is not None) for r in others]
        positive = sum(c for _, c in figures)

        def gain(bound: float, figures: list[tuple[float, bool]] = figures, positive: int = positive) -> float:
            found = sum(c and f > bound for f, c in figures) / positive
            return found - sum(f > bound and not c for f, c in figures) / (len(figures) - positive)

        candidates = sorted(f for f, _ in figures)
        middles = [(x + y) / 2 for x, y in pairwise(candidates)]
        bound = max(middles, key=gain)
        verdicts += [(r.collapse is not None, statistic(r) > bound) for r in own]
    return score(name, verdicts)


def armed(run: Run) -> tuple[Point, ...]:
    """The points from the first low training loss on (0.22 nats: the default ``memorised``)."""
    start = next((i for i, p in enumerate(run.points) if p.loss <= 0.22), len(run.points))
    return run.points[start:]


def highest_loss(run: Run) -> float:
    """Highest loss once memorised, nats."""
    return max((p.loss for p in armed(run)), default=0.0)


def loss_over_best(run: Run) -> float:
    """Highest ratio of the loss to its best so far, once memorised."""
    best, worst = math.inf, 0.0
    for p in armed(run):
        best = min(best, max(p.loss, 1e-12))
        worst = max(worst, p.loss / best)
    return worst


def norm_jump(run: Run) -> float:
    """Largest relative rise of the weight norm between two logged points, once memorised."""
    points = armed(run)
    return max((b.norm / a.norm - 1 for a, b in pairwise(points)), default=0.0)


def cross_validated(runs: Sequence[Run], red: float) -> tuple[list[Verdict], dict[str, dict[str, float]]]:
    """The product's detector with bounds fitted on the other studies."""
    verdicts, fitted = [], {}
    for study, others, own in folds(runs):
        fitted[study] = bounds(fit(others), red)
        verdicts += [watch(r, Collapse(**fitted[study])) for r in own]
    return verdicts, fitted


def main() -> int:
    """Run everything; 0 also when the data is missing, which is said."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="machine-readable results")
    arguments = parser.parse_args()
    folder = data_folder("grokking_collapse")
    if folder is None:
        print(json.dumps({"status": "not run"}) if arguments.json else "not run: grokking_collapse is missing")
        return 0
    runs = load(folder)
    verdicts, fitted = cross_validated(runs, RISKS["red"])

    def pairs(vs: Sequence[Verdict]) -> list[tuple[bool, bool]]:
        return [(v.collapse is not None, v.red is not None) for v in vs]

    scores = [score("premortem Collapse, odds 1:9", pairs(verdicts))]
    for risk in (0.05, 0.2, 0.5):
        other, _ = cross_validated(runs, risk)
        scores.append(score(f"the same, red at P = {risk:g}", pairs(other)))
    scores += [
        plain("plain: highest loss", highest_loss, runs),
        plain("plain: loss over its best", loss_over_best, runs),
        plain("plain: weight norm jump", norm_jump, runs),
        score("always", [(r.collapse is not None, True) for r in runs]),
        score("never", [(r.collapse is not None, False) for r in runs]),
    ]
    if arguments.json:
        print(
            json.dumps({"scores": [asdict(s) for s in scores], "bounds": fitted, "runs": [asdict(v) for v in verdicts]})
        )
    else:
        report(scores, fitted, verdicts)
    return 0


def report(scores: list[Score], fitted: dict[str, dict[str, float]], verdicts: list[Verdict]) -> None:
    """Print what was measured as Markdown."""
    print("\n### Cross-validated by study\n\n| rule | found (lower 95 %) | accused (upper 95 %) |\n|---|---|---|")
    for s in scores:
        print(f"| {s.rule} | {s.found}/{s.collapsing} = {s.found / s.collapsing:.1%} ({s.found_lower95:.1%}) "
              f"| {s.accused}/{s.others} = {s.accused / s.others:.1%} ({s.accused_upper95:.1%}) |")  # fmt: skip
    print(
        "\n| study left out | "
        + " | ".join(RISKS)
        + " | collapsing found | others accused |\n|---|---|---|---|---|---|"
    )
    for study, b in fitted.items():
        own = [v for v in verdicts if v.study == study]
        bad, good = [v for v in own if v.collapse is not None], [v for v in own if v.collapse is None]
        print(f"| {study} | " + " | ".join(f"{b[n]:.3f}" for n in RISKS) +
              f" | {sum(v.red is not None for v in bad)}/{len(bad)} "
              f"| {sum(v.red is not None for v in good)}/{len(good)} |")  # fmt: skip
    found = [v for v in verdicts if v.collapse is not None and v.red is not None]
    leads = [v.collapse - v.red for v in found if v.collapse is not None and v.red is not None]
    early = [(v.run, v.collapse - v.red) for v in found if v.collapse and v.red and v.red < v.collapse]
    on_time = sum(lead == 0 for lead in leads)
    print(f"\nLead of RED over the first collapse, steps: median {median(leads):g}; {len(early)} earlier {early}; "
          f"{on_time} at the same logged point; {len(leads) - len(early) - on_time} later.")  # fmt: skip
    hints = [(v.run, v.collapse - v.yellow) for v in found if v.collapse and v.yellow and v.yellow < v.collapse]
    print(f"YELLOW earlier than the collapse: {len(hints)} {hints}; YELLOW on others: "
          f"{sum(v.collapse is None and v.yellow is not None for v in verdicts)}.")  # fmt: skip
    print("\nConfusion, run by run:")
    for v in verdicts:
        if (v.collapse is None) != (v.red is None):
            print(f"- run {v.run} ({v.study}): " + ("missed" if v.red is None else
                  f"accused at step {v.red}, loss {v.loss_at_red:.3f}, accuracy {v.accuracy_at_red:.3f}"))  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
