"""What the trainings by seed share: how many seeds there are, and the bound that every one of them must hold.

Not run by itself; see ``hrm_sudoku.py``, ``hrm_maze.py`` and ``ppo_maze.py``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, ClassVar, Protocol


class Run(Protocol):
    """What one seed gave: a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def within_bound(self) -> bool:
        """Whether it came out as well and as cheap as the bound says."""


def seeds_parser(description: str, minutes: float) -> argparse.ArgumentParser:
    """The arguments that all of them take; ``minutes`` of one training where none are given."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seeds", type=_seed_count, default=3, help="how many seeds to run")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=minutes, help="wall limit of one training")
    parser.add_argument("--json", action="store_true")
    return parser


def _seed_count(text: str) -> int:
    """A bound that no seed was held to would be reported as held."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected at least 1; no seed is no evidence")
    return int(text)


def seeds_of(arguments: argparse.Namespace) -> range:
    """The seeds that were asked for."""
    return range(arguments.first_seed, arguments.first_seed + arguments.seeds)


def report(runs: Sequence[Run], table: list[str], bound: str, arguments: argparse.Namespace) -> int:
    """Print the table and whether every seed held the bound, or JSON; the exit code, 1 where one did not.

    ``bound``: in words; empty where this setting has none, and then the exit code is 0.
    """
    is_held = all(run.within_bound for run in runs)
    if arguments.json:
        print(json.dumps({"size": arguments.size, "runs": [asdict(run) for run in runs]}, indent=2))
    else:
        print(*table, sep="\n")
        if bound:
            print(f"bound (every seed {bound}): {'held' if is_held else 'MISSED'}")
    return int(bool(bound) and not is_held)
