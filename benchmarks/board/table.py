"""The board as Markdown."""

from __future__ import annotations

import datetime
import os
import platform
from dataclasses import dataclass

from benchmarks.board.judge import Cell, verdict
from benchmarks.board.peer import PEERS, ROWS


@dataclass(frozen=True)
class Board:
    """``cells`` by row and peer, ``versions`` and reasons of refusal by peer."""

    refused: dict[str, str]
    versions: dict[str, str]
    cells: dict[str, dict[str, Cell]]


def markdown(board: Board, rows: list[str]) -> str:
    """The table, what each peer promises, and where it was run."""
    peers = [p for p in PEERS if p.name in board.versions]
    lines = ["| fault | " + " | ".join(p.title for p in peers) + " | premortem against all |"]
    lines.append("|---" * (len(peers) + 2) + "|")
    for row in rows:
        cells = board.cells[row]
        texts = [cells[p.name].text.replace("|", "\\|") for p in peers]
        titled = {p.name if p.name.startswith("premortem") else p.title: cells[p.name] for p in peers}
        lines.append(f"| {ROWS[row]} | " + " | ".join(texts) + f" | {verdict(row, titled)} |")
    lines += ["", "| peer | version | promises |", "|---|---|---|"]
    lines += [f"| {p.title} | {board.versions[p.name]} | {p.promise} |" for p in peers]
    for peer in PEERS:
        if peer.name in board.refused:
            lines.append(f"| {peer.title} | not run: {board.refused[peer.name][:300]} | {peer.promise} |")
    when = datetime.datetime.now(tz=datetime.UTC).date()
    where = f"Python {platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.0f}"
    lines += ["", f"{when}, {where}."]
    return "\n".join(lines)
