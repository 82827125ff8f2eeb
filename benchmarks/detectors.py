"""Scores the default training detectors on public healthy runs and on the same runs with faults added.

Thresholds were chosen on data order group A alone; every figure printed as *scored* comes from the other groups.
Beside ours: OLMo-core's skip rule, mean + 5 sigma, llm-foundry's KillLossSpike, always-fire and never-fire, each
written from its description. Run: ``python benchmarks/detectors.py [--json]``.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Protocol

from premortem.core.detector import Level
from premortem.parts.detectors import Shift, gradient_norm_detectors, training_loss_detectors
from traces import (
    SHAPES,
    Constant,
    IncidentLine,
    KillLossSpike,
    Shape,
    SigmaRule,
    Trace,
    benign_steps,
    data_folder,
    incident_lines,
    poisson_upper,
    share_upper,
    synthetic_streams,
    training_traces,
)

POSITIONS = (0.25, 0.4, 0.55, 0.7)  # of the first 3,500 steps; 0.55 is where the anchors were measured
ANCHOR = POSITIONS.index(0.55)
HORIZON = 1000
WANDER = (0.5, 1.0, 1.5)
_WINDOWS = ("plateau", "low_variance")  # YELLOW on most healthy windows by design: no news


class Rule(Protocol):
    """Alarm, and a record (ours: a YELLOW spike) of the same step."""

    def step(self, value: float) -> tuple[bool, bool]: ...


class ShiftAlone:
    """The sustained channel by itself, at a given ``wander``."""

    def __init__(self, wander: float) -> None:
        self.detector = Shift(wander=wander)

    def step(self, value: float) -> tuple[bool, bool]:
        red = self.detector.observe(value) == Level.RED
        return red, red


class Ours:
    """The product's own set: RED or worse from any detector is an alarm, YELLOW from the spike channel a record."""

    def __init__(self) -> None:
        self.detectors = training_loss_detectors()

    def step(self, value: float) -> tuple[bool, bool]:
        levels = {name: d.observe(value) for name, d in self.detectors.items()}
        alarm = any(level is not None and level >= Level.RED for level in levels.values())
        return alarm, alarm or levels["spike"] == Level.YELLOW


RULES: dict[str, Callable[[int], Rule]] = {
    "premortem": lambda n: Ours(),
    "OLMo 6 sigma/128": lambda n: SigmaRule(6, 128, 64),
    "mean + 5 sigma/100": lambda n: SigmaRule(5, 100, 50),
    "KillLossSpike": lambda n: KillLossSpike(n),
    "always": lambda n: Constant(fires=True),
    "never": lambda n: Constant(fires=False),
}


@dataclass(frozen=True, slots=True)
class Healthy:
    """Alarms of one rule on healthy runs; an episode is a run of consecutive alarm steps."""

    rule: str
    runs: int
    steps: int
    runs_alarmed: int
    runs_alarmed_upper95: float
    episodes: int
    episodes_per_1000: float
    episodes_per_1000_upper95: float
    alarm_steps_per_1000: float
    on_benign_spikes: int
    records: int


@dataclass(frozen=True, slots=True)
class Found:
    """One rule on one shape: hits within the horizon and the median delay of the hits, in steps."""

    rule: str
    shape: str
    trials: int
    found: int
    median_delay: float
    median_by_position: tuple[float, ...]
    bound: float | None
    by_record: bool


def healthy(name: str, traces: list[Trace], benign: dict[str, set[int]]) -> Healthy:
    """Feed every healthy run from its first step."""
    episodes = alarmed = alarm_steps = on_benign = records = 0
    for trace in traces:
        rule, before, hit = RULES[name](len(trace.loss)), False, False
        for step, value in enumerate(trace.loss):
            alarm, record = rule.step(value)
            if alarm:
                alarm_steps += 1
                # logged step numbers begin at 0 or 1
                near = {step, step + 1} & benign.get(trace.group, set())
                on_benign += bool(near) and not before
                episodes += not before
            records += record and not alarm
            before, hit = alarm, hit or alarm
        alarmed += hit
    steps = sum(len(t.loss) for t in traces)
    return Healthy(
        name,
        len(traces),
        steps,
        alarmed,
        share_upper(alarmed, len(traces)),
        episodes,
        1000 * episodes / steps,
        1000 * poisson_upper(episodes, steps),
        1000 * alarm_steps / steps,
        on_benign,
        records,
    )


def delay(rule: Rule, trace: Trace, shape: Shape, onset: int) -> int | None:
    """Steps from onset to the first alarm (for a single step: record), ``None`` when missed."""
    single = shape.name.startswith("single")
    for t, value in enumerate(trace.loss[onset : onset + HORIZON]):
        alarm, record = rule.step(shape.apply(value, t))
        if alarm or (single and record):
            return t
        if single and t >= 5:
            return None
    return None


def found(name: str, traces: list[Trace]) -> list[Found]:
    """Every shape at every position of every run; the healthy prefix is fed once a position."""
    delays: dict[str, list[tuple[float, int | None]]] = {s.name: [] for s in SHAPES}
    for trace in traces:
        rule, at = RULES[name](len(trace.loss)), 0
        for position in POSITIONS:
            onset = int(position * min(len(trace.loss), 3500))
            for value in trace.loss[at:onset]:
                rule.step(value)
            at = onset
            for shape in SHAPES:
                delays[shape.name].append((position, delay(copy.deepcopy(rule), trace, shape, onset)))
    return [_summary(name, shape, delays[shape.name]) for shape in SHAPES]


def _summary(name: str, shape: Shape, delays: list[tuple[float, int | None]]) -> Found:
    hits = [d for _, d in delays if d is not None]
    at = [[d for p, d in delays if p == position and d is not None] for position in POSITIONS]
    return Found(
        name,
        shape.name,
        len(delays),
        len(hits),
        median(hits) if hits else math.nan,
        tuple(median(d) if d else math.nan for d in at),
        shape.delay_bound,
        shape.name.startswith("single") and name == "premortem",
    )


def bloom(lines: list[IncidentLine]) -> dict[str, int]:
    """First YELLOW and RED on BLOOM-176B's first spike, primed with the section's own three calm lines, cycled."""
    section = [x for x in lines if x.section == "2022-04-12 First lm loss spike"]
    calm = [x for x in section if x.iteration == 31214 or x.iteration >= 31250]
    spike = [x for x in section if 31214 < x.iteration < 31250]
    first: dict[str, int] = {"loss peak": max(spike, key=lambda x: x.loss).iteration}
    norms = gradient_norm_detectors()
    losses = training_loss_detectors()
    for signal, detectors in (("gradient norm", norms), ("loss", losses)):
        feed = [*(calm[i % len(calm)] for i in range(120)), *spike]
        for line in feed:
            value = line.loss if signal == "loss" else line.gradient_norm
            worst = max((d.observe(value) or Level.GREEN for n, d in detectors.items() if n not in _WINDOWS))
            for level in (Level.YELLOW, Level.RED):
                if worst >= level:
                    first.setdefault(f"{signal} {level.name}", line.iteration)
    return first


def synthetic(seeds: int = 30) -> dict[str, list[str]]:
    """Healthy synthetic streams of 2,000 steps: of ``seeds`` runs, how many Shift alarms on, by ``wander``."""

    def alarms(stream: Callable[[int], list[float]], wander: float) -> int:
        return sum(Level.RED in map(Shift(wander=wander).observe, stream(seed)) for seed in range(seeds))

    return {name: [str(alarms(s, w)) for w in WANDER] for name, s in synthetic_streams().items()}


def price(traces: list[Trace]) -> dict[str, list[str]]:
    """What each ``wander`` costs on the public curves: found and median delay of sustained shapes, onset at 55 %."""
    costs: dict[str, list[str]] = {}
    for shape in SHAPES[:6]:
        for w in WANDER:
            delays = []
            for trace in traces:
                rule, onset = ShiftAlone(w), int(0.55 * min(len(trace.loss), 3500))
                for value in trace.loss[:onset]:
                    rule.step(value)
                delays.append(delay(rule, trace, shape, onset))
            hits = [d for d in delays if d is not None]
            text = f"{len(hits)}/{len(delays)}" + (f", {median(hits):g}" if hits else "")
            costs.setdefault(f"{shape.name}: found, delay", []).append(text)
    return costs


def tables(results: dict[str, list[Healthy]], hits: list[Found], lead: dict[str, int]) -> None:
    """Print what was measured as Markdown."""
    for title, rows in results.items():
        print(f"\n### Healthy, {title}: {rows[0].runs} runs, {rows[0].steps:,} steps\n")
        print("| rule | runs alarmed (upper 95 %) | alarms per 1,000 steps (upper 95 %) | steps in alarm per 1,000 "
              "| alarms on benign batch spikes | records |\n|---|---|---|---|---|---|")  # fmt: skip
        for r in rows:
            print(f"| {r.rule} | {r.runs_alarmed} ({r.runs_alarmed_upper95:.0%}) | {r.episodes_per_1000:.3f} "
                  f"({r.episodes_per_1000_upper95:.3f}) | {r.alarm_steps_per_1000:.2f} | {r.on_benign_spikes} "
                  f"| {r.records} |")  # fmt: skip
    names = list(dict.fromkeys(h.rule for h in hits))
    print("\n### Faults added, scored groups: found % / median delay (at 55 % of the run), steps\n")
    print("| shape | bound | " + " | ".join(names) + " |\n|" + "---|" * (len(names) + 2))
    for shape in SHAPES:
        cells = [_cell(h) for h in hits if h.shape == shape.name]
        bound = "—" if shape.delay_bound is None else f"{shape.delay_bound:g}"
        print(f"| {shape.name} | {bound} | " + " | ".join(cells) + " |")
    print("\npremortem's single step is found as a YELLOW record; all else is RED or worse.\n")
    print("premortem, median delay by onset (share of the first 3,500 steps):\n")
    print("| shape | " + " | ".join(f"{p:.0%}" for p in POSITIONS) + " |\n|" + "---|" * (len(POSITIONS) + 1))
    for hit in hits:
        if hit.rule == "premortem":
            print(f"| {hit.shape} | " + " | ".join(f"{d:g}" for d in hit.median_by_position) + " |")
    print("\n### BLOOM-176B, first loss spike: first iterations\n")
    print("; ".join(f"{k}: {v}" for k, v in lead.items()))


def _cell(hit: Found) -> str:
    if not hit.found:
        return "0 %"
    return f"{100 * hit.found / hit.trials:.0f} % / {hit.median_delay:g} ({hit.median_by_position[ANCHOR]:g})"


def main() -> int:
    """Run everything; 0 also when the data is missing, which is said."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="machine-readable results")
    arguments = parser.parse_args()
    folder = data_folder("training_traces")
    if folder is None:
        print(json.dumps({"status": "not run"}) if arguments.json else "not run: training_traces is missing")
        return 0
    traces, benign = training_traces(folder), benign_steps(folder)
    scored = [t for t in traces if t.group != "A"]
    groups = {"tuned on (A)": [t for t in traces if t.group == "A"], "scored (all others)": scored}
    results = {title: [healthy(n, ts, benign) for n in RULES] for title, ts in groups.items()}
    hits = [h for name in RULES for h in found(name, scored)]
    lead = bloom(incident_lines(folder))
    made_up = {**synthetic(), **price(scored)}
    if arguments.json:
        healthy_rows = {title: [asdict(r) for r in rows] for title, rows in results.items()}
        print(
            json.dumps(
                {"healthy": healthy_rows, "found": [asdict(h) for h in hits], "bloom": lead, "synthetic": made_up}
            )
        )
    else:
        tables(results, hits, lead)
        print("\n### Shift by wander: alarms on 30 healthy synthetic runs of 2,000 steps; scored curves below\n")
        print("| stream | " + " | ".join(f"wander {w:g}" for w in WANDER) + " |\n|" + "---|" * (len(WANDER) + 1))
        for name, counts in made_up.items():
            print(f"| {name} | " + " | ".join(counts) + " |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
