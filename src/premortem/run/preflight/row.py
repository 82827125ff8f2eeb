"""What a check answers, and what it was asked."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from premortem.core.evidence import Plain

State = Literal["ok", "not ok", "unknown", "not asked"]
"""Unknown is not ok (law 2). What nobody asked for, and what is not built, is said as ``not asked``."""

GB = 1024.0**3


@dataclass(frozen=True, slots=True)
class Row:
    """One answer: what was looked at, how it stands, what was found, what was expected, what to do."""

    what: str
    state: State
    found: str
    expected: str = ""
    do: str = ""

    @property
    def passes(self) -> bool:
        """Whether the preflight may go on past it."""
        return self.state in ("ok", "not asked")

    def to_json(self) -> dict[str, Plain]:
        """Plain data."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the user wants to be ready for.

    Attributes:
        folder: where checkpoints will go.
        ledger: the ledger's file or folder; by the usual rule when ``None``.
        register: the register that will guard the run.
        need_gb: what the next phase will write, in GiB.
        memory_gb: what the run will hold at its peak, in GiB, on the host or on the device it runs on.
        device: ``cpu``, ``cuda``, ``cuda:1``; any that is there when empty.
        extras: extras of the package that must be installed.
        datasets: data sets by name; what the check of data does when empty is its own matter.
        trackers: trackers by name, such as ``wandb``.
    """

    folder: Path = Path("checkpoints")
    ledger: Path | None = None
    register: str = "default"
    need_gb: float | None = None
    memory_gb: float | None = None
    device: str = ""
    extras: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    trackers: tuple[str, ...] = field(default_factory=tuple)
