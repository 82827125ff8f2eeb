"""The same real faults against the peers' own guards, with their defaults; prints the table.

python -m benchmarks.board                     # all; the first time makes one environment a peer (about 1 GB each)
python -m benchmarks.board --peers lightning,olmo --rows "nan gradient"
python -m benchmarks.board --write docs/board.md
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from benchmarks.board.cells import run_rows
from benchmarks.board.judge import judge
from benchmarks.board.peer import HEALTHY, PEERS, ROWS, Peer
from benchmarks.board.table import Board, markdown
from benchmarks.board.venvs import NotInstalled, default_home, python_of


def main() -> int:
    """0 when the board was run; 2 for a name that is unknown."""
    given = _arguments()
    names, rows = _chosen(given.peers, [p.name for p in PEERS]), _chosen(given.rows, list(ROWS))
    if names is None or rows is None:
        return 2
    board = Board(refused={}, versions={}, cells={})
    outcomes: dict[str, dict[str, Any]] = {}
    for peer in _with_bases(names):
        try:
            python = python_of(peer.name, given.home)
        except NotInstalled as error:
            board.refused[peer.name] = str(error)
            continue
        if not peer.runs:
            board.refused[peer.name] = "it installs, and nobody has written its script yet"
            continue
        outcomes[peer.name] = run_rows(python, peer.name, list(dict.fromkeys([HEALTHY, *rows])), seed=given.seed)
        for row, found in outcomes[peer.name].items():
            board.versions[peer.name] = found.get("version", board.versions.get(peer.name, ""))
            print(f"board: {peer.name}, {row}: {found['ended']} {found['why']}", file=sys.stderr, flush=True)
    _judge(board, outcomes)
    if given.json:
        print(json.dumps({"refused": board.refused, "versions": board.versions, "outcomes": outcomes}, indent=1))
    else:
        print(markdown(board, rows))
    if given.write:
        _write(given.write, markdown(board, rows))
    return 0


def _judge(board: Board, outcomes: dict[str, dict[str, Any]]) -> None:
    plain = outcomes.get("torch", outcomes["premortem"])[HEALTHY]
    for peer in PEERS:
        for row, outcome in outcomes.get(peer.name, {}).items():
            board.cells.setdefault(row, {})[peer.name] = judge(
                peer, row, outcome, outcomes[peer.name][HEALTHY], plain
            )  # fmt: skip


def _with_bases(names: list[str]) -> list[Peer]:
    return [p for p in PEERS if p.name in names or p.name in ("premortem", "torch")]


def _chosen(given: str, known: list[str]) -> list[str] | None:
    chosen = [name.strip() for name in given.split(",") if name.strip()] or known
    unknown = [name for name in chosen if name not in known]
    if unknown:
        print(f"board: found {', '.join(unknown)}, expected some of: {', '.join(known)}", file=sys.stderr)
        return None
    return chosen


def _write(path: Path, table: str) -> None:
    text = path.read_text("utf-8")
    new = re.sub(r"<!-- board -->.*?<!-- /board -->", lambda _: f"<!-- board -->\n{table}\n<!-- /board -->", text,
                 flags=re.DOTALL)  # fmt: skip
    path.write_text(new, "utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default="", help="names by comma; premortem and torch always run")
    parser.add_argument("--rows", default="", help="rows by comma; the healthy run is always made")
    parser.add_argument("--home", type=Path, default=default_home(), help="where the environments are kept")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="every outcome as it was measured")
    parser.add_argument("--write", type=Path, help="put the table between the markers of this file")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
