"""What guarding costs a training step: a 24 M language model, guarded and plain, in interleaved pairs.

Both sides are the same model on the same batches, in one process. A pair is one plain and one guarded step, in
random order, so that whatever else the machine does falls on both alike. Bundles are written by the guarded run
at its own pace; the time for that is kept apart and reported as a share of the training time.

The bound: the upper 95 % limit of the median ratio guarded / plain is at most 1.01 (bootstrap over the pairs).

    python benchmarks/step_cost.py --pairs 120 --json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from premortem import Guard
from premortem.run.training import GuardedTraining
from premortem.stages.train.lm import SMALL, LanguageModel, loss

BOUND = 1.01
MAX_NORM = 1.0


@dataclass(frozen=True)
class Result:
    """Ratios of step times; seconds; ``saving_share`` of the loop's time."""

    parameters: int
    tokens_a_step: int
    pairs: int
    median_ratio: float
    upper_95: float
    mean_log_upper_95: float
    cpu_median_ratio: float
    cpu_upper_95: float
    plain_step_s: float
    guarded_step_s: float
    guard_alone_us: float
    saves: int
    saving_share: float
    load_average: float
    threads: int
    bound: float = BOUND

    @property
    def passed(self) -> bool:
        """Whether the bound holds, for steps and for saving."""
        return self.upper_95 <= BOUND and self.saving_share <= 0.05


class Side:
    """A model with its optimiser, from the same seed on both sides."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = LanguageModel(SMALL)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-4, fused=True)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: min(1.0, (step + 1) / 100))

    def plain_step(self, batch: Tensor) -> None:
        """As anyone would write it."""
        value = loss(self.model, batch)
        value.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.scheduler.step()
        value.item()  # a loop that prints or logs its loss reads it


Times = list[tuple[float, float]]


def timed(step: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the wall and of the processor; the second tells work from waiting on a machine that others use."""
    began, cpu = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - began, time.process_time() - cpu


class Own:
    """The time that the guard spends beside the training's own work: everything after the optimiser's step."""

    def __init__(self, run: GuardedTraining) -> None:
        self.seconds: list[float] = []
        observe = run.observe

        def watched(stepped: object) -> None:
            saved, began = run.keeping.saving_s, time.perf_counter()
            observe(stepped)  # type: ignore[arg-type]
            self.seconds.append(time.perf_counter() - began - (run.keeping.saving_s - saved))

        run.observe = watched  # type: ignore[method-assign, assignment]


def measure(pairs: int, batch_size: int, tokens: int, folder: Path) -> Result:
    """Interleaved pairs; the first few of each are warm-up."""
    plain, guarded_side = Side(), Side()
    made = torch.Generator().manual_seed(1)
    # text-like: every window is a walk with a little noise, so that the loss falls and nothing is alarmed
    windows = (torch.randint(0, 2000, (256, 1), generator=made) + torch.arange(tokens + 1)) % 2000
    chance = random.Random(0)
    plain_s: Times = []
    guarded_s: Times = []
    with Guard().training(
        guarded_side.model, guarded_side.optimizer, scheduler=guarded_side.scheduler, checkpoints=folder,
        max_norm=MAX_NORM,
    ) as run:  # fmt: skip
        own = Own(run)
        warm_up, saving_steps, began = 5, 0, time.perf_counter()
        for pair in range(pairs + warm_up + 5):  # a few more: steps with a bundle are no pairs
            batch = windows[torch.randint(0, 256, (batch_size,), generator=made)]
            saved = run.keeping.saving_s
            sides: list[tuple[Times, Callable[[], object]]] = [
                (plain_s, lambda batch=batch: plain.plain_step(batch)),
                (guarded_s, lambda batch=batch: run.step(loss, batch)),
            ]
            chance.shuffle(sides)
            for times, step in sides:
                times.append(timed(step))
            if run.keeping.saving_s > saved:  # a bundle was written: its time is told apart, its step is no pair
                saving_steps += 1
                plain_s.pop()
                guarded_s.pop()
            if pair == warm_up - 1:
                plain_s.clear()
                guarded_s.clear()
                own.seconds.clear()
        began_to_end = time.perf_counter() - began
        require_same(plain.model, guarded_side.model)
        saving = run.keeping.saving_s
    ratios = [g / p for (g, _), (p, _) in zip(guarded_s, plain_s, strict=True)]
    cpu_ratios = [g / p for (_, g), (_, p) in zip(guarded_s, plain_s, strict=True)]
    guarded_step_s = statistics.median(g for g, _ in guarded_s)
    # the guard paces its saving by the time from step to step of its loop, in which here the plain side trains, too
    trained = began_to_end - saving
    return Result(
        parameters=sum(p.numel() for p in plain.model.parameters()),
        tokens_a_step=batch_size * tokens,
        pairs=len(ratios),
        median_ratio=statistics.median(ratios),
        upper_95=upper_limit(ratios, statistics.median),
        mean_log_upper_95=upper_limit(ratios, statistics.geometric_mean),
        cpu_median_ratio=statistics.median(cpu_ratios),
        cpu_upper_95=upper_limit(cpu_ratios, statistics.median),
        plain_step_s=statistics.median(p for p, _ in plain_s),
        guarded_step_s=guarded_step_s,
        guard_alone_us=1e6 * statistics.median(own.seconds),
        saves=saving_steps,
        saving_share=saving / (saving + trained),
        load_average=os.getloadavg()[0],
        threads=torch.get_num_threads(),
    )


def require_same(one: nn.Module, other: nn.Module) -> None:
    """Both sides did the same work, bit for bit: else the comparison means nothing."""
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    if not all(torch.equal(a, b) for a, b in pairs):
        sys.exit("step_cost: plain and guarded weights differ, expected the same bits; the guard changed the training")


def upper_limit(ratios: list[float], centre: Callable[[list[float]], float], draws: int = 4000) -> float:
    """One-sided upper 95 % limit of the centre, by the bootstrap over pairs."""
    chance = random.Random(1)
    centres = sorted(centre(chance.choices(ratios, k=len(ratios))) for _ in range(draws))
    return centres[int(0.95 * draws)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=120, help="at least 100 for the bound")
    parser.add_argument("--batch", type=int, default=1, help="windows a step")
    parser.add_argument("--tokens", type=int, default=128, help="tokens a window, at most 256")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--threads", type=int, default=0, help="torch's threads; 0: as many as it takes itself")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory(prefix="premortem-cost-") as folder:
        result = measure(given.pairs, given.batch, given.tokens, Path(folder))
    if given.json:
        print(json.dumps({"passed": result.passed, **asdict(result)}, indent=1))
    else:
        print(
            f"{result.parameters / 1e6:.0f} M parameters, {result.pairs} interleaved pairs: guarded / plain "
            f"{result.median_ratio:.4f}, upper 95 % limit {result.upper_95:.4f} (bound {BOUND}); "
            f"processor time {result.cpu_median_ratio:.4f}, upper limit {result.cpu_upper_95:.4f}; "
            f"steps {result.plain_step_s * 1e3:.0f} ms plain, {result.guarded_step_s * 1e3:.0f} ms guarded, of which "
            f"{result.guard_alone_us:.0f} µs are the guard's own; saving {100 * result.saving_share:.1f} % of the time "
            f"({result.saves} steps with it); load average {result.load_average:.1f}"
        )
    return 0 if result.passed else 1


if __name__ == "__main__":
    sys.exit(main())
