"""What a service is started with."""

from __future__ import annotations

from dataclasses import dataclass

from premortem.core.errors import ConfigError

LONGEST_S = 600.0
"""Most that an answer may be allowed, by the service's setting or by a client."""
_LONGEST_WAIT_S = 86400.0
"""Longer waits, such as infinite ones, are a mistake: a loop's timers do not take them all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceConfig:
    """Bounds and defaults.

    Attributes:
        queue: requests that may wait for an answer at once, those at the worker included.
        max_wait_s: a request that would wait longer by the measured rate is refused at once.
        timeout_s: allowed for an answer where the client names none; at most 600.
        slots: puzzles that share a segment of reasoning at most.
        linger_s: an idle worker waits so long for company for the first puzzle; 0 begins at once, and who comes
            later joins at the next segment.
        cache: answers that are kept; ``None`` without bound.
        depth: segments of reasoning at most; 0 for the model's own limit.
        silent_s: a worker that owes an answer and says nothing for so long is ended.
        start_s: allowed for the start of a worker.
        threads: of the worker's arithmetic.
    """

    queue: int = 256
    max_wait_s: float = 1.0
    timeout_s: float = 2.0
    slots: int = 16
    linger_s: float = 0.0
    cache: int | None = 4096
    depth: int = 0
    silent_s: float = 10.0
    start_s: float = 60.0
    threads: int = 1

    def __post_init__(self) -> None:
        for name in ("queue", "slots", "threads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"setting {name}: found {getattr(self, name)}, expected at least 1")
        for name, most in (
            ("timeout_s", LONGEST_S), ("max_wait_s", _LONGEST_WAIT_S), ("silent_s", _LONGEST_WAIT_S),
            ("start_s", _LONGEST_WAIT_S),
        ):  # fmt: skip
            if not 0 < getattr(self, name) <= most:
                found = f"found {getattr(self, name)}, expected more than 0 and at most {most:g} seconds"
                raise ConfigError(f"setting {name}: {found}")
        if self.depth < 0 or not 0 <= self.linger_s <= _LONGEST_WAIT_S:
            raise ConfigError(f"settings depth {self.depth} and linger_s {self.linger_s}: expected 0 or more")
