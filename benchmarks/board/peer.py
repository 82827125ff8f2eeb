"""Who is on the board: what each promises, and what it has a guard for. Which rows there are."""

from __future__ import annotations

from dataclasses import dataclass

HEALTHY, FLIP, MEMORY, DISK, KILLED = "healthy", "bit flip", "memory", "disk full", "killed"
ROWS = {
    HEALTHY: "healthy run",
    "nan gradient": "one NaN element in one gradient, step 300",
    "nan loss": "NaN in one forward pass, step 300",
    "nan from a step on": "NaN in every forward pass from step 300 on",
    "rate x 100": "learning rate × 100, steps 300-319",
    "shift": "a fifth of the labels wrong from step 300 on (loss + 1.0)",
    "divergence 2 %": "learning rate + 2 % a step, steps 300-549",
    "two spikes": "loss × 10,000 at step 300, × 1,000 at step 330",
    KILLED: "SIGKILL at step 400, started again",
    MEMORY: "batch 128 where 4 fit",
    FLIP: "one bit of the newest checkpoint flipped",
    DISK: "file system full from step 350 on, freed, started again",
}
FINITE = frozenset({"nan gradient", "nan loss", "nan from a step on"})
LOSS = frozenset({"rate x 100", "shift", "divergence 2 %", "two spikes"})


@dataclass(frozen=True)
class Peer:
    """``script`` in ``peers/`` and ``requirements/``; ``guards``: rows that it has a guard for, by its own words."""

    name: str
    title: str
    promise: str
    guards: frozenset[str]
    runs: bool = True


PEERS = (
    Peer(
        "premortem", "premortem", "skips, restores, splits, verifies; what cannot be mended ends with the weights safe",
        frozenset(ROWS) - {HEALTHY},
    ),
    Peer(
        "premortem_default", "premortem, own pace of bundles", "the same, with nothing set",
        frozenset(ROWS) - {HEALTHY},
    ),
    Peer("torch", "torch + DCP", "checkpoints are whole before they are named; else nothing", frozenset({KILLED})),
    Peer(
        "lightning", "Lightning SpikeDetection",
        "a loss that is not finite, or 3 × the mean of 10, ends the run and names the batches", FINITE | LOSS
        | {KILLED, MEMORY},
    ),
    Peer(
        "olmo", "OLMo-core SkipStepAdamW",
        "updates above mean + 6 σ of 128 (loss or gradient norm) are skipped; a loss that is not finite ends the run",
        FINITE | LOSS | {KILLED},
    ),
    Peer(
        "accelerate", "accelerate", "find_executable_batch_size finds a batch that fits; nothing about numbers",
        frozenset({MEMORY, KILLED}),
    ),
    Peer(
        "transformers", "HF Trainer",
        "clips at 1.0, keeps NaN out of the log, auto_find_batch_size; nothing else about numbers",
        frozenset({MEMORY, KILLED, "two spikes"}),
    ),
    Peer("foundry", "llm-foundry KillLossSpike", "ends a run on sustained spikes", LOSS, runs=False),
)  # fmt: skip
