"""Scores the classes of log lines over public lines with their class, beside two plain rules, and times a line.

    python benchmarks/fault_lines.py [FAULT_LINES.csv]

The file has the columns line and class; it is not part of the project, and without it this says "not run".
"""

from __future__ import annotations

import csv
import sys
import time
from pathlib import Path

from premortem.machine.lines import classify

DEFAULT = Path(__file__).resolve().parents[2] / "shared" / "data" / "incidents" / "fault_lines.csv"
USUAL = (
    "step 400 loss 2.31 lr 3e-4 grad_norm 0.8 tokens 123456 time 0.52",
    "[2022-01-19 13:16:17,683] [INFO] [logging.py:68:log_dist] [Rank 0] step=100, skipped=0, lr=[6e-05, 6e-05]",
    " 42%|####2     | 421/1000 [00:10<00:13, 41.9it/s]",
)


def microseconds(lines: tuple[str, ...], rounds: int = 5000) -> float:
    began = time.thread_time()
    for _ in range(rounds):
        for line in lines:
            classify(line)
    return (time.thread_time() - began) / rounds / len(lines) * 1e6


def main() -> int:
    print(f"a usual line: {microseconds(USUAL):.1f} µs")
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT
    if not path.is_file():
        print(f"not run: found no {path}, expected a CSV with the columns line and class")
        return 0
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    print(f"a line of a fault: {microseconds(tuple(row['line'] for row in rows)):.1f} µs")
    right = 0
    for row in rows:
        found = classify(row["line"])
        kind, expected = "none" if found is None else found.kind, row["class"].split(" ")[0]
        right += kind == expected
        print(f"{'right' if kind == expected else 'WRONG'}  {expected:26} {kind:26} {row['line'][:60]}")
    words = sum("error" in row["line"].lower() for row in rows)
    print(f"{right} of {len(rows)} have their class; looking for the word 'error' sees {words} of them, with no class")
    return 0 if right == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
