"""How long the light commands take as whole processes, beside a bare Python and ``import torch``.

Bounds: ``premortem register list`` and ``import premortem`` below 0.3 s, neither torch nor numpy loaded.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

RUNS = 15
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import premortem": [sys.executable, "-c", "import premortem"],
    "premortem register list": [sys.executable, "-m", "premortem.app.cli.main", "register", "list"],
    "premortem explain train/divergence": [
        sys.executable, "-m", "premortem.app.cli.main", "explain", "train/divergence",
    ],
    "import torch": [sys.executable, "-c", "import torch"],
}  # fmt: skip


def main() -> int:
    """Print minimum and median of each command, interleaved; 0 always: a noisy machine proves nothing."""
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for turn in range(RUNS + 1):
        for name, command in COMMANDS.items():
            if name == "import torch" and turn > 2:
                continue
            began = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            if turn:
                taken[name].append(time.perf_counter() - began)
    rows = [
        {"command": name, "min_s": round(min(times), 3), "median_s": round(statistics.median(times), 3)}
        for name, times in taken.items()
    ]
    if "--json" in sys.argv:
        print(json.dumps(rows))
        return 0
    print("| command | minimum s | median s |\n|---|---|---|")
    for row in rows:
        print(f"| `{row['command']}` | {row['min_s']:.3f} | {row['median_s']:.3f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
