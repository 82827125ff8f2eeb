"""The ledger on SQLite: the seam of :class:`Ledger` over the writer and the queries."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from premortem.core.evidence import Plain, Record
from premortem.ledger import query
from premortem.ledger.chain import Document, Draft, canonical, parse, storable, waiting_row
from premortem.ledger.ledger import ALL, Filters, Health, Ledger, Reading, Receipt, Role, Row, VerifyReport
from premortem.ledger.verify import verify
from premortem.ledger.writer import Writer


class SqliteLedger(Ledger):
    """A ledger in one file, with ``.head`` and, in trouble, ``.spool.jsonl`` beside it.

    Args:
        path: the database file; it and its folder are made when missing.
        run: id of the run whose records these are; made from the time when empty. Resume with the same one.
        busy_s: how long, in seconds, a write waits for another process's lock; 0.1 s once it has failed.

    Raises:
        ConfigError: a folder, another program's database, or a newer schema.
        StageError: it cannot be opened now.
    """

    def __init__(self, path: str | Path, *, run: str = "", busy_s: float = 5.0) -> None:
        self.path = Path(path)
        self.run = run or f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.urandom(3).hex()}"
        self._writer = Writer(self.path, self.run, busy_s)

    def __enter__(self) -> SqliteLedger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, record: Record, *, state: Plain = None) -> Receipt:
        """Commit one record, and the run's state with it, where given."""
        return self._write("note", record, "", state)

    def intend(self, record: Record, *, state: Plain = None) -> Receipt:
        """Commit an intent before it is carried out."""
        return self._write("intent", record, "", state)

    def settle(self, receipt: Receipt, record: Record, *, state: Plain = None) -> Receipt:
        """Commit the outcome of an intent."""
        return self._write("outcome", record, receipt.token, state)

    def _write(self, role: Role, record: Record, settles: str, state: Plain) -> Receipt:
        documents = () if state is None else (Document("state", _key(self.run), canonical(state)),)
        token = self._writer.new_token()
        return self._writer.write(Draft(time.time(), self.run, role, token, settles, record, documents))

    def save_state(self, run: str, blob: Plain) -> Receipt:
        """Replace the state of a run; the chain gets its digest."""
        return self._put("state", run, blob)

    def load_state(self, run: str) -> Plain:
        """The last state of a run, also one that still waits in the spool; None where it has none."""
        return self._get("state", run)

    def put_baseline(self, key: str, baseline: Plain) -> Receipt:
        """Replace the baseline under a key; the chain gets its digest."""
        return self._put("baseline", key, baseline)

    def get_baseline(self, key: str) -> Plain:
        """The baseline under a key, also one that still waits in the spool; None where there is none."""
        return self._get("baseline", key)

    def _put(self, kind: Literal["state", "baseline"], key: str, value: Plain) -> Receipt:
        document = Document(kind, _key(key), canonical(value))
        token = self._writer.new_token()
        return self._writer.write(Draft(time.time(), self.run, kind, token, documents=(document,)))

    def _get(self, kind: str, key: str) -> Plain:
        for draft in reversed(self._writer.waiting):
            for document in draft.documents:
                if (document.kind, document.key) == (kind, _key(key)):
                    return parse(document.body)
        return query.document(self.path, kind, _key(key))

    def note_readings(self, tick: int, values: Mapping[str, float]) -> None:
        """Buffer the values of a tick; values that are no numbers are stored as NaN."""
        self._writer.note(tick, values)

    def readings(self, signal: str | None = None, *, run: str | None = None) -> Iterator[Reading]:
        """Stored readings, after a flush; block by block, by tick within a block."""
        self._writer.flush()
        return query.readings(self.path, signal, run)

    def records(self, filters: Filters = ALL) -> Iterator[Row]:
        """The stored rows that pass, in order of writing. What waits in the spool is not among them."""
        return query.rows(self.path, filters)

    def latest_proof(self, entry: str) -> Row | None:
        """The last ``proof`` record of an entry."""
        return query.latest(self.path, "proof", entry)

    def unsettled(self, run: str | None = None) -> list[Row]:
        """Intents without an outcome, oldest first; those that only wait in the spool come last, with seq 0.

        Where several live processes share the ledger, name the run: another's intent may be under way.
        """
        self._writer.flush()
        waiting = self._writer.waiting
        settled = {draft.settles for draft in waiting}
        rows = query.unsettled(self.path, run)
        rows += [waiting_row(d) for d in waiting if d.role == "intent" and run in (None, d.run)]
        return [row for row in rows if row.token not in settled]

    def contains(self, receipt: Receipt) -> bool:
        """Whether the record stands on disk with this hash. A spooled one does, once it is replayed."""
        return query.contains(self.path, receipt)

    def flush(self) -> None:
        """Write what is buffered or spooled, as far as possible."""
        self._writer.flush()

    def verify(self) -> VerifyReport:
        """Walk the whole chain, after a flush."""
        self._writer.flush()
        return verify(self.path, self._writer.head)

    def health(self) -> Health:
        """How writing goes."""
        return self._writer.health()

    def close(self) -> None:
        """Flush and let go of the files. A later call opens them again."""
        self._writer.close()


def _key(key: str) -> str:
    return str(storable(key))
