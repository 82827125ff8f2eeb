"""Reads a batch, says what is wrong with each row, publishes. It knows nothing of risks."""

from __future__ import annotations

import json
from pathlib import Path

from producer import ROWS

from premortem.core.signal import Signal
from premortem.parts.controls import HeldSetting

FIELDS = {"id": int, "user": int, "amount": float, "at": int}
WRONGS = ("schema", "null", "duplicate", "late")
MOST_LATE_S = 6 * 3600


class Pipeline:
    """`published.jsonl` is what downstream reads: the newest batch, or the last good one."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.published = folder, folder / "published.jsonl"
        self.admit, self.source, self.downstream = "every row", "newest batch", "runs"
        self.seen: set[int] = set()
        self.snapshot_age = 0

    def take(self, path: Path) -> dict[str, float | None]:
        """One batch through the pipeline; returns what came in, and what went out."""
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        newest = max((row["at"] for row in rows if isinstance(row.get("at"), int)), default=0)
        wrongs = [self._wrong(row, newest) for row in rows]
        self.seen |= {row["id"] for row in rows if isinstance(row.get("id"), int)}
        good = [row for row, wrong in zip(rows, wrongs, strict=True) if not wrong]
        self._append("quarantine.jsonl", [row for row, wrong in zip(rows, wrongs, strict=True) if wrong])
        passed = list(zip(rows, wrongs, strict=True)) if self.admit == "every row" else [(row, "") for row in good]
        if self.source == "newest batch":
            self._publish([row for row, _ in passed])
            self.snapshot_age = 0
        else:
            passed, self.snapshot_age = [({}, "")] * self._restore(), self.snapshot_age + 1
        if len(good) == len(rows):
            (self.folder / "good.jsonl").write_bytes(path.read_bytes())
        out = {f"out_{wrong}": sum(w == wrong for _, w in passed) / ROWS for wrong in WRONGS}
        return {"in_wrong": 1.0 - len(good) / ROWS, "out_rows": len(passed) / ROWS,
                "snapshot_age": float(self.snapshot_age), **out}  # fmt: skip

    def total(self) -> float:
        """What downstream computes from what is published: the sum of all amounts."""
        rows = (json.loads(line) for line in self.published.read_text().splitlines())
        return sum(row.get("amount") or 0.0 for row in rows)

    def _wrong(self, row: dict[str, object], newest: int) -> str:
        if set(row) != set(FIELDS):
            return "schema"
        if any(row[name] is None for name in FIELDS):
            return "null"
        if any(not isinstance(row[name], kind) for name, kind in FIELDS.items()):
            return "schema"
        if row["id"] in self.seen:
            return "duplicate"
        return "late" if newest - int(str(row["at"])) > MOST_LATE_S else ""

    def _publish(self, rows: list[dict[str, object]]) -> None:
        self.published.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def _append(self, name: str, rows: list[dict[str, object]]) -> None:
        with (self.folder / name).open("a") as stream:
            stream.writelines(json.dumps(row) + "\n" for row in rows)

    def _restore(self) -> int:
        content = (self.folder / "good.jsonl").read_bytes()
        self.published.write_bytes(content)
        return content.count(b"\n")


class PipelineWorkload:
    """The pipeline as the guard sees it. A tick is a batch."""

    kind = "pipeline"
    signals = (
        Signal("in_wrong", "of rows", help="came in and is not as agreed"),
        Signal("out_rows", "of a batch", higher_is_worse=False, help="published, over what a batch holds"),
        Signal("snapshot_age", "batches", help="since what is published was new"),
        *(Signal(f"out_{wrong}", "of rows", help="published in spite of it") for wrong in WRONGS),
    )

    def __init__(self, pipeline: Pipeline) -> None:
        def held(name: str) -> HeldSetting:
            base = getattr(pipeline, name)
            return HeldSetting(base, lambda v: setattr(pipeline, name, v), lambda: getattr(pipeline, name))

        self.controls = {name: held(name) for name in ("admit", "source", "downstream")}
        self.witnesses: dict[str, str] = {}
        self.conditions: dict[str, object] = {}
