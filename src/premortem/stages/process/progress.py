"""Whether a program got further than before: its step number, a file that it writes, or how long it lasted.

Progress tells a restart that helps from a loop: the same crash after new steps is bad luck, without any it is a loop.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

STEPS = re.compile(
    r"(?<![\w.])(?:global[ _])?(?:step|iter(?:ation)?|epoch|batch|update)s?\b\W{0,4}(\d{1,12})(?![\d.]*\d*%)", re.I
)
_LONGER = 3.0
_LEAST_S = 10.0


class Progress:
    """Follows one command over all of its starts.

    Args:
        pattern: finds the step number in a line as its first group.
        files: whose change (size or time) counts as progress too.
    """

    def __init__(self, pattern: re.Pattern[str] = STEPS, files: tuple[Path, ...] = ()) -> None:
        self._pattern, self._files = pattern, files
        self.step: int | None = None
        """The highest step number seen in any start."""
        self._at_start: tuple[int | None, tuple[object, ...]] = (None, ())
        self.longest_s = 0.0

    def hear(self, line: str) -> None:
        """One line of the output."""
        match = self._pattern.search(line)
        if match is not None:
            with contextlib.suppress(ValueError, IndexError):
                number = int(match[1])
                self.step = number if self.step is None else max(self.step, number)

    def begin(self) -> None:
        """A start begins."""
        self._at_start = (self.step, self._marks())

    def made(self, lasted_s: float) -> bool:
        """Whether the start that just ended got further than all before it; ``lasted_s`` is how long it ran."""
        longer = lasted_s > max(_LEAST_S, _LONGER * self.longest_s) and self.longest_s > 0.0
        self.longest_s = max(self.longest_s, lasted_s)
        return longer or self.so_far

    @property
    def so_far(self) -> bool:
        """Whether the start that runs is further than all before it, by its steps or its files."""
        step, marks = self._at_start
        return (self.step is not None and (step is None or self.step > step)) or self._marks() != marks

    def _marks(self) -> tuple[object, ...]:
        return tuple(_mark(file) for file in self._files)

    def state(self) -> dict[str, float | int | None]:
        """Plain data to resume from."""
        return {"step": self.step, "longest_s": self.longest_s}

    def load(self, step: int | None, longest_s: float) -> None:
        """Resume."""
        self.step, self.longest_s = step, longest_s


def _mark(file: Path) -> object:
    try:
        found = file.stat()
    except OSError:
        return None
    return (found.st_size, found.st_mtime_ns)
