"""Holds the modules that everything rests on to 95 % of lines; run after the tests, reads their data."""

from __future__ import annotations

import io
import sys

from coverage import Coverage

FLOOR = 95.0
FLOORS = {
    "guard": ["*/premortem/core/engine.py", "*/premortem/run/guard.py", "*/premortem/run/driver.py"],
    "ladder": ["*/premortem/core/ladder.py", "*/premortem/core/climb.py", "*/premortem/core/peel.py"],
    "ledger": ["*/premortem/ledger/*.py"],
    "checkpoint": ["*/premortem/stages/train/checkpoint/*.py"],
}


def main() -> int:
    """Print each part's share; 1 when one is below the floor."""
    coverage = Coverage()
    coverage.load()
    low = []
    for part, patterns in FLOORS.items():
        share = coverage.report(include=patterns, file=io.StringIO())
        print(f"{part}: {share:.1f} % of lines, floor {FLOOR:g} %")
        if share < FLOOR:
            low.append(part)
    if low:
        print(f"below the floor: {', '.join(low)}; cover the missing lines (coverage report -m)")
    return 1 if low else 0


if __name__ == "__main__":
    sys.exit(main())
