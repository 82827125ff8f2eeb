"""What came of a supervised command, for people, for machines and for the exit code."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import cast

from premortem.core.evidence import Plain
from premortem.stages.process.starts import Ended

GAVE_UP = 125
"""Exit code where the supervisor stopped trying: a loop, no restart left, or nothing that could help."""


@dataclass(frozen=True, slots=True)
class Summary:
    """``exit_code`` is what the supervisor leaves with.

    ``verdict``: ``ended well``, ``ended by itself`` with its own code (no restart was allowed, or the reader of its
    output had gone), ``ended as asked``, or ``given up``; ``why`` says why.
    """

    command: tuple[str, ...]
    verdict: str
    why: str
    exit_code: int
    restarts: int
    endings: tuple[Ended, ...]
    limit: int | None
    limit_by: str
    seconds: float
    run: str
    ledger: str

    def to_json(self) -> dict[str, Plain]:
        """Plain data."""
        return {
            "command": [*self.command], "verdict": self.verdict, "why": self.why, "exit_code": self.exit_code,
            "starts": len(self.endings), "restarts": self.restarts,
            "endings": cast("list[Plain]", [ended.to_json() for ended in self.endings]),
            "memory_limit": self.limit, "limit_by": self.limit_by, "seconds": round(self.seconds, 3),
            "run": self.run, "ledger": self.ledger,
        }  # fmt: skip

    def lines(self) -> list[str]:
        """The report for a person; empty where all went well at the first start."""
        if self.verdict == "ended well" and not self.restarts:
            return []
        times = {1: "once", 2: "twice"}.get(self.restarts + 1, f"{self.restarts + 1} times")
        why = f": {self.why}" if self.why else ""
        head = f"{self.verdict}, exit code {self.exit_code}{why}; started {times}"
        rows = [f"  start {e.start}: {_row(e)}" for e in self.endings[-6:]]
        hidden = len(self.endings) - len(rows)
        skipped = [f"  … {hidden} earlier starts"] if hidden else []
        return [head, *skipped, *rows, f"  what happened: premortem incidents list --ledger {self.ledger}"]


def _row(ended: Ended) -> str:
    words = ended.signature.partition(" | ")[2] if ended.kind == "stopped" else ended.words
    said = f"stopped here: {words}" if ended.kind == "stopped" else words
    said += ", the reader of its output had gone" if ended.kind == "unheard" else ""
    again = f", {ended.same} times in a row without progress" if ended.same > 1 else ""
    step = f", up to step {ended.step}" if ended.step is not None else ""
    return f"{said} after {ended.lasted_s:.1f} s{step}{again}"


def verdict_of(last: Ended | None, asked: int, why: str, *, restarts_allowed: bool) -> tuple[str, int]:
    """The verdict and the exit code."""
    if last is None:  # told to end before anything ran
        return "ended as asked", 128 + (asked or signal.SIGTERM)
    if last.kind == "well":
        return "ended well", 0
    if asked:
        return "ended as asked", last.code if last.kind == "asked" else 128 + asked
    if last.kind == "unheard" or (not restarts_allowed and last.kind != "stopped"):
        return "ended by itself", last.code
    return "given up", GAVE_UP
