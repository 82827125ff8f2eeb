"""Two unmodified scripts under `premortem supervise`: one leaks, one crashes; both are brought to their end.

python examples/supervise_command/main.py [--fault none] [--home FOLDER]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
OPTIONS = {
    "leak.py": ["--memory-limit", "96M", "--grace", "1s"],
    "crash.py": ["--every", "100ms", "--backoff", "100ms"],
}


def supervise(script: str, arguments: list[str], ledger: Path, folder: Path) -> None:
    """What a user types, and then what the summary says of it."""
    summary = folder / "summary.json"
    command = [sys.executable, str(HERE / script), *arguments]
    options = [*OPTIONS[script], "--ledger", str(ledger), "--summary", str(summary)]
    print(f"$ premortem supervise {' '.join(OPTIONS[script])} -- python {script}", flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "premortem.app.cli.main", "supervise", *options, "--", *command],
        cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    print("".join(f"  {line}\n" for line in done.stderr.splitlines() if "ledger" not in line), end="")
    said = json.loads(summary.read_text())
    print(f"  exit {done.returncode}: {said['verdict']}, started {said['restarts'] + 1} times", flush=True)


def main() -> None:
    """Run both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fault", choices=("scripts", "none"), default="scripts")
    parser.add_argument("--home", type=Path, help="the folder of the ledger; a temporary one when left out")
    asked = parser.parse_args()
    faulty = asked.fault != "none"
    with tempfile.TemporaryDirectory() as place:
        ledger = (asked.home or Path(place) / "home") / "ledger.db"
        for script, arguments in (
            ("leak.py", ["90"] if faulty else ["30", "0"]),
            ("crash.py", ["2" if faulty else "0"]),
        ):
            folder = Path(place) / script.partition(".")[0]
            folder.mkdir()
            supervise(script, arguments, ledger, folder)


if __name__ == "__main__":
    main()
