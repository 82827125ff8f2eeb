"""What a ledger is: append-only evidence that shows when a row was changed.

``Ledger`` is the seam: SQLite stands behind it by default, PostgreSQL may later
(``docs/decisions/0002-ledger-on-sqlite3.md``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from premortem.core.evidence import Plain, Record

Role = Literal["note", "intent", "outcome", "state", "baseline", "readings"]


@dataclass(frozen=True, slots=True)
class Receipt:
    """Proof of writing. ``committed`` is False where the record is only spooled: then fail closed.

    ``seq`` counts from 1 and is 0 while spooled; ``hash`` is 64 hex digits, empty while spooled.
    ``token`` names the record in either state, so a spooled one is found again after its replay.
    """

    seq: int
    hash: str
    committed: bool = True
    token: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One stored record and what the ledger added: place in the chain, wall time (Unix seconds), run, role."""

    seq: int
    wall: float
    run: str
    role: Role
    token: str
    settles: str
    record: Record
    hash: str

    @property
    def receipt(self) -> Receipt:
        """The receipt that its writer got, or gets after a replay."""
        return Receipt(self.seq, self.hash, committed=self.seq > 0, token=self.token)


@dataclass(frozen=True, slots=True)
class Reading:
    """One value of one signal. ``wall`` is in Unix seconds; the unit of ``value`` is the signal's."""

    run: str
    tick: int
    wall: float
    signal: str
    value: float


@dataclass(frozen=True, slots=True)
class Filters:
    """Which rows are wanted; every condition must hold, and the empty one always does.

    ``since`` and ``until`` are wall time in Unix seconds, inclusive; ``after`` is a sequence number, exclusive.
    """

    events: tuple[str, ...] = ()
    entry: str | None = None
    incident: int | None = None
    run: str | None = None
    after: int = 0
    since: float | None = None
    until: float | None = None


ALL = Filters()


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is not as it was written. ``seq`` is None where no single row is at fault."""

    seq: int | None
    text: str


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a walk of the whole chain found. At most 20 problems are kept; ``num_problems`` counts all."""

    num_rows: int
    head_seq: int | None
    problems: tuple[Problem, ...]
    num_problems: int

    @property
    def ok(self) -> bool:
        """Whether the ledger is exactly what was written."""
        return self.num_problems == 0

    @property
    def first_bad(self) -> int | None:
        """The lowest sequence number at fault, None where there is none."""
        return min((p.seq for p in self.problems if p.seq is not None), default=None)


@dataclass(frozen=True, slots=True)
class Health:
    """How writing goes: the last fault in one line (empty: none), and what waits or was lost because of it.

    ``spool`` is where waiting records lie on disk; None with ``num_spooled`` > 0 means: in memory alone.
    """

    fault: str = ""
    num_spooled: int = 0
    spool: Path | None = None
    num_readings_lost: int = 0


@runtime_checkable
class Ledger(Protocol):
    """Append-only evidence. No method but the constructor raises because a disk is full or a file is locked:
    writing says so in the receipt, and :meth:`health` says why; reading raises StageError.
    """

    def append(self, record: Record, *, state: Plain = None) -> Receipt:
        """Commit one record, and the run's state with it in the same transaction, where given."""
        ...

    def intend(self, record: Record, *, state: Plain = None) -> Receipt:
        """Commit an intent before it is carried out (write-ahead)."""
        ...

    def settle(self, receipt: Receipt, record: Record, *, state: Plain = None) -> Receipt:
        """Commit the outcome of an intent."""
        ...

    def unsettled(self, run: str | None = None) -> list[Row]:
        """Intents without an outcome, oldest first, of one run or of all."""
        ...

    def contains(self, receipt: Receipt) -> bool:
        """Whether the record stands on disk with this hash, read anew and hashed again."""
        ...

    def records(self, filters: Filters = ALL) -> Iterator[Row]:
        """The rows that pass, in order of writing."""
        ...

    def latest_proof(self, entry: str) -> Row | None:
        """The last ``proof`` record of an entry."""
        ...

    def note_readings(self, tick: int, values: Mapping[str, float]) -> None:
        """Buffer the values of a tick; at most one second of them is lost in a crash."""
        ...

    def readings(self, signal: str | None = None, *, run: str | None = None) -> Iterator[Reading]:
        """Stored readings, block by block, by tick within a block."""
        ...

    def save_state(self, run: str, blob: Plain) -> Receipt:
        """Replace the state of a run."""
        ...

    def load_state(self, run: str) -> Plain:
        """The last state of a run, None where it has none."""
        ...

    def put_baseline(self, key: str, baseline: Plain) -> Receipt:
        """Replace the baseline under a key."""
        ...

    def get_baseline(self, key: str) -> Plain:
        """The baseline under a key, None where there is none."""
        ...

    def flush(self) -> None:
        """Write what is buffered or spooled, as far as possible."""
        ...

    def verify(self) -> VerifyReport:
        """Walk the whole chain."""
        ...

    def health(self) -> Health:
        """How writing goes."""
        ...

    def close(self) -> None:
        """Flush and let go of the files."""
        ...

    @staticmethod
    def open(path: str | Path | None = None, *, run: str = "") -> Ledger:
        """The ledger at ``path``, else where ``PREMORTEM_LEDGER`` points, else ``.premortem/ledger.db`` here.

        Raises:
            ConfigError: the path is no place for a ledger, or a newer premortem wrote it.
            StageError: it cannot be opened now: locked, damaged, disk full or read-only.
        """
        # The backend is chosen here, not at import: a team's database driver is no dependency of all.
        from premortem.ledger.location import ledger_path
        from premortem.ledger.sqlite import SqliteLedger

        return SqliteLedger(ledger_path(path), run=run)
