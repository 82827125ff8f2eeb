"""Runs the clean run and the chaos run, and judges the second by the first.

    python -m benchmarks.chaos [--steps 5000] [--every 100] [--seed 0] [--json]

Bounds: validation loss within 1 % of the clean run, goodput at least 95 %, nobody lends a hand, every action traceable.
Goodput is the share of attempted steps that the final weights have behind them; time lost to restarts is shown apart,
because a restart of this small model costs as much as 200 of its steps.
"""

from __future__ import annotations

import argparse
import json
import random
import struct
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks.chaos.judging import judge
from benchmarks.chaos.kinds import KINDS

from premortem.faults.disk import FullTmpfs
from premortem.faults.fault import NotPermitted

ROOM = 256 << 20
NEEDS_MOUNT = "file system full"


def schedule(steps: int, every: int, seed: int, left_out: set[str]) -> dict[int, str]:
    """Every kind as often as every other, in a random order."""
    rng, names = random.Random(seed), [k.name for k in KINDS if k.name not in left_out]
    places = list(range(every, steps, every))
    drawn: list[str] = []
    while len(drawn) < len(places):
        drawn += rng.sample(names, len(names))
    return dict(zip(places, drawn, strict=False))


def run(command: list[str], log: Path, limit_s: float) -> tuple[int, float]:
    """Exit code and seconds."""
    began = time.monotonic()
    with log.open("wb") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, timeout=limit_s, check=False)
    return done.returncode, time.monotonic() - began


def main() -> None:
    """Prints a table, or JSON; exit code 1 where a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="one kind of fault, by name")
    parser.add_argument("--home", type=Path, help="a folder for everything, which stays; else a temporary one")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with ExitStack() as stack:
        home = given.home or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="premortem-chaos-")))
        left_out: set[str] = set()
        try:
            checkpoints = stack.enter_context(FullTmpfs(ROOM, leave_bytes=None)).folder
        except NotPermitted as error:
            checkpoints, left_out = home / "checkpoints", {NEEDS_MOUNT}
            print(f"not run: {NEEDS_MOUNT}: {error}", file=sys.stderr)
        found = campaign(given, home, checkpoints, left_out)
    print(json.dumps(found, indent=1) if given.json else "\n".join(f"{k}: {v}" for k, v in found.items()))
    sys.exit(0 if not found["missed"] else 1)


def campaign(given: argparse.Namespace, home: Path, checkpoints: Path, left_out: set[str]) -> dict[str, object]:
    """Both runs, and what they came to."""
    clean, chaos = home / "clean", home / "chaos"
    clean.mkdir(parents=True)
    chaos.mkdir()
    python = [sys.executable, "-m", "benchmarks.chaos.training"]
    faults = schedule(given.steps, given.every, given.seed, left_out)
    if given.only is not None:
        faults = dict.fromkeys(faults, given.only)
    (chaos / "schedule.json").write_text(json.dumps(faults))
    clean_code, clean_s = run([*python, str(clean), "--steps", str(given.steps), "--plain"], home / "clean.log", 1800)
    command = [
        sys.executable, "-m", "premortem.app.cli.main", "supervise",
        "--restarts", "200", "--heartbeat", "8s", "--backoff", "100ms", "--memory-limit", "1200M", "--grace", "5s",
        "--progress", r"step (\d+)", "--ledger", str(chaos / "supervise.db"), "--summary", str(chaos / "summary.json"),
        "--", *python, str(chaos), "--steps", str(given.steps), "--checkpoints", str(checkpoints),
        "--schedule", str(chaos / "schedule.json"),
    ]  # fmt: skip
    code, seconds = run(command, home / "chaos.log", 3600)
    attempted = struct.unpack("<q", (chaos / "steps.bin").read_bytes())[0]
    return {
        "faults": len(faults),
        "exit_codes": [clean_code, code],
        "clean_s": round(clean_s, 1),
        "chaos_s": round(seconds, 1),
        "attempted_steps": attempted,
        "goodput": round(given.steps / max(1, attempted), 4),
        **judge(home, faults, given.steps / max(1, attempted)),
    }


if __name__ == "__main__":
    main()
