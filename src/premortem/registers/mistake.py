"""What is wrong in a register file, and where: every mistake at once, one line each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from premortem.core.errors import ConfigError

Path = tuple[str | int, ...]
"""Keys and list positions from the root of the file."""


SHOWN = 100
"""Mistakes in one message; all are in ``RegisterError.mistakes``."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake.

    Attributes:
        line: counted from 1.
        column: counted from 1.
        path: where in the data, ``("entries", 3, "owner")``.
        text: what was found, what was expected, what to do.
    """

    line: int
    column: int
    path: Path
    text: str

    @property
    def where(self) -> str:
        """The path as it is printed: ``$.entries[3].owner``."""
        return spell(self.path)


class RegisterError(ConfigError):
    """A register that cannot be used, with all mistakes found in it.

    Attributes:
        file: the file as it was named.
        mistakes: in the order of the file.
    """

    def __init__(self, file: str, mistakes: Sequence[Mistake]) -> None:
        self.file = file
        self.mistakes = tuple(sorted(mistakes, key=lambda m: (m.line, m.column, m.where)))
        lines = [f"{file}:{m.line}: {m.where}: {m.text}" for m in self.mistakes[:SHOWN]]
        left = len(self.mistakes) - SHOWN
        super().__init__("\n".join([*lines, f"{file}: and {left} more mistakes"] if left > 0 else lines))


def spell(path: Path) -> str:
    """A path as text.

    >>> spell(("entries", 3, "ladder", 1, "by"))
    '$.entries[3].ladder[1].by'
    """
    return "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)


def closest(found: str, allowed: Sequence[str]) -> str:
    """The nearest allowed name as a question, or nothing.

    >>> closest("severty", ["severity", "status"])
    "; did you mean 'severity'?"
    """
    meant = nearest(found, allowed)
    return "" if meant is None else f"; did you mean {meant!r}?"


def nearest(found: str, allowed: Sequence[str]) -> str | None:
    """The allowed name that is most like what was found, if any is."""
    return next(iter(get_close_matches(found[:80], allowed, n=1, cutoff=0.6)), None)
