"""A data pipeline: quarantine → last good snapshot → stop downstream, as a producer goes wrong in four ways.

python examples/data_pipeline/main.py [--fault none] [--home FOLDER]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import producer
from pipeline import Pipeline, PipelineWorkload

import premortem
from premortem.run.evidence import incidents
from premortem.run.watching import Watch

HERE = Path(__file__).parent
STORY = [
    ("", 6),
    ("a burst of nulls", 7), ("", 8),
    ("rows sent twice", 7), ("", 8),
    ("rows a day late", 7), ("", 8),
    ("amount renamed to amount_cents", 8), ("", 14),
    ("amount renamed to amount_cents", 20),
]  # fmt: skip
"""What the producer does, and for how many hours. The second renaming stays."""


def run(pipeline: Pipeline, watch: Watch, *, faulty: bool) -> None:
    """Hour by hour, until the story ends or downstream is stopped."""
    hour = 0
    for fault, hours in STORY:
        if faulty and fault:
            print(f"-- producer: {fault}")
        for _ in range(hours):
            hour += 1
            path = pipeline.folder / f"batch-{hour:03}.jsonl"
            producer.write(path, hour, fault if faulty else "")
            watch.tick(pipeline.take(path))
            if pipeline.downstream == "stopped":
                print(f"downstream is stopped after hour {hour}; it read {pipeline.total():.2f} last")
                return


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fault", choices=("producer", "none"), default="producer")
    parser.add_argument("--home", type=Path, help="the folder of the ledger; a temporary one when left out")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pipeline = Pipeline(Path(folder))
        guard = premortem.Guard(HERE / "register.yaml", risks=HERE / "risks")
        home = asked.home or Path(folder) / "home"
        with guard.watching(PipelineWorkload(pipeline), home=home, say=print) as watch:
            run(pipeline, watch, faulty=asked.fault != "none")
            for found in incidents(watch.ledger):
                tried = ", ".join(f"{rung.rung}: {rung.verdict}" for rung in found.rungs)
                print(f"incident {found.number}: {found.verdict}, {found.because.split(':')[0]} ({tried})")
            print("healthy at the end" if watch.standing.is_healthy else "not healthy at the end")


if __name__ == "__main__":
    main()
