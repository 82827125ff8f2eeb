"""How a network can be bad, and what a client of it got: plain data."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from premortem.core.errors import ConfigError

Kind = Literal["pass", "refuse", "hang", "reset", "delay", "throttle", "truncate", "corrupt", "black hole"]
Ending = Literal["whole", "refused", "reset", "closed", "silent"]
_NEEDS_AMOUNT = ("delay", "throttle", "truncate", "corrupt", "black hole")


@dataclass(frozen=True, slots=True)
class Condition:
    """How the network is.

    Attributes:
        kind: `pass`; `refuse` (the port is really closed); `hang` (accepts, never answers); `reset`; `delay`
            by `amount` seconds each way; `throttle` to `amount` bytes/s; `truncate`, `black hole`: the connection
            ends, or falls silent, after `amount` bytes to the client; `corrupt`: one byte in each `amount` bytes
            to the client is wrong.
        seed: where bytes are corrupted: the same offsets of each connection at every replay.
    """

    kind: Kind = "pass"
    amount: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        least = 1 if self.kind in ("throttle", "corrupt") else 0
        if self.kind in _NEEDS_AMOUNT and not (self.amount >= least and self.amount < float("inf")):
            raise ConfigError(f"network {self.kind}: amount is {self.amount}, expected a number of at least {least}")

    def corrupted(self, chunk: bytes, offset: int) -> bytes:
        """`chunk` as it arrives when it starts at `offset` of its connection."""
        every = int(self.amount)
        changed = bytearray(chunk)
        for block in range(offset // every, (offset + len(chunk) - 1) // every + 1):
            rng = random.Random(f"{self.seed}:{block}")
            at = block * every + rng.randrange(every) - offset
            if 0 <= at < len(chunk):
                changed[at] ^= rng.randrange(1, 256)
        return bytes(changed)


@dataclass(frozen=True, slots=True)
class Measured:
    """What a client of the proxy got: of `expected` bytes, `num_bytes` came and `num_wrong` of them were wrong."""

    ended: Ending
    expected: int
    num_bytes: int = 0
    num_wrong: int = 0
    first_s: float = 0.0
    total_s: float = 0.0

    @property
    def is_right(self) -> bool:
        """Whether every byte came and was the right one."""
        return self.ended == "whole" and self.num_wrong == 0

    def __str__(self) -> str:
        wrong = f", {self.num_wrong} wrong" if self.num_wrong else ""
        return f"{self.ended} after {self.total_s:.2f} s with {self.num_bytes} of {self.expected} bytes{wrong}"
