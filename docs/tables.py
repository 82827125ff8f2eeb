"""Writes the generated tables into README.md and docs, or checks that they are current.

Sources: the registers, and ``docs/proofs.json``, which ``premortem drill --json`` printed.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from premortem.registers.load import load_all

ROOT = Path(__file__).parents[1]
PROOFS = ROOT / "docs" / "proofs.json"


def registers_table() -> str:
    """One line a register: how many entries, how many run."""
    lines = ["| register | entries | active | about |", "|---|---|---|---|"]
    for name, file in load_all().items():
        active = sum(entry.status == "active" for entry in file.entries)
        lines.append(f"| `{name}` | {len(file.entries)} | {active} | {file.title} |")
    return "\n".join(lines)


def proofs_table() -> str:
    """One line a drill case, as its command printed it."""
    lines = [
        "| entry | risk: case | verdict | baseline | unguarded | guarded | seen after | recovered after | in |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in json.loads(PROOFS.read_text("utf-8")):
        verdict = f"{row['verdict']} {row['seeds']}/{row['seeds']}" if row["verdict"] == "proven" else row["verdict"]
        lines.append(
            f"| {row['entry']} | {row['risk']}: {row['case']} | {verdict} | {_loss(row['baseline'])} "
            f"| {_loss(row['unguarded'])} | {_loss(row['guarded'])} | {_steps(row['detected_after'])} "
            f"| {row['recovered_after'] or '-'} | {_steps(row['recovered_in'])} |"
        )
    return "\n".join(lines)


def _loss(value: float | None) -> str:
    return "NaN or died" if value is None else f"{value:.4f}"


def _steps(value: int | None) -> str:
    return "-" if value is None else f"{value} steps"


TABLES = {"registers": registers_table, "proofs": proofs_table}
FILES = ("README.md",)


def main() -> int:
    """0 when all tables are current (or were written), 1 when ``--check`` found a stale one."""
    check = "--check" in sys.argv
    stale = []
    for name in FILES:
        path = ROOT / name
        text = path.read_text("utf-8")
        new = text
        for key, table in TABLES.items():
            block = f"<!-- {key} -->\n{table()}\n<!-- /{key} -->"
            new = re.sub(rf"<!-- {key} -->.*?<!-- /{key} -->", lambda _, b=block: b, new, flags=re.DOTALL)
        if new != text and check:
            stale.append(name)
        elif new != text:
            path.write_text(new, "utf-8")
    if stale:
        print(f"{', '.join(stale)}: a generated table is not current; run make docs")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
