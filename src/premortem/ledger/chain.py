"""The chain: each row's hash covers its content and the hash before it. Pure functions over text.

The chain is not keyed: it shows accidents, bit rot and careless edits, not an author who recomputes every
later hash and the head file. Against that, publish the last hash elsewhere (``docs/ledger.md``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from premortem.core.evidence import Plain, Record
from premortem.ledger.ledger import Role, Row

GENESIS = "0" * 64
_LONGEST_REPR = 4000


@dataclass(frozen=True, slots=True)
class Document:
    """A piece of plain JSON that is replaced as a whole: a run's state, a baseline."""

    kind: str
    key: str
    body: str

    @property
    def name(self) -> str:
        """The key of its digest in the chain."""
        return f"{self.kind}:{self.key}"


@dataclass(frozen=True, slots=True)
class Block:
    """Packed readings: the signal names of each group (JSON) and the numbers (little-endian float64)."""

    signals: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Draft:
    """A row that has no place in the chain yet."""

    wall: float
    run: str
    role: Role
    token: str
    settles: str = ""
    record: Record | None = None
    documents: tuple[Document, ...] = ()
    block: Block | None = None
    digests: dict[str, str] = field(default_factory=dict)

    def body(self, seq: int) -> str:
        """The canonical JSON that the hash covers."""
        digests = dict(self.digests)
        digests |= {d.name: digest(d.body.encode("ascii")) for d in self.documents}
        if self.block is not None:
            digests["readings"] = block_digest(self.block.signals, self.block.payload)
        return canonical(
            {
                "seq": seq,
                "wall": self.wall,
                "run": self.run,
                "role": self.role,
                "token": self.token,
                "settles": self.settles,
                "record": None if self.record is None else _plain(self.record),
                "digests": digests,
            }
        )


def canonical(value: object) -> str:
    """One JSON text per value, ASCII only: sorted keys, no spaces; non-finite numbers as Python writes them.

    What JSON cannot hold is kept as its ``repr``: evidence of the wrong type is still evidence.

    >>> canonical({"b": float("nan"), "a": (1, 2)})
    '{"a":[1,2],"b":NaN}'
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_short_repr)
    except (TypeError, ValueError, RecursionError):
        return json.dumps({"unencodable": _short_repr(value)})


def digest(data: bytes) -> str:
    """SHA-256 in hex digits."""
    return hashlib.sha256(data).hexdigest()


def block_digest(signals: str, payload: bytes) -> str:
    """Digest of a block of readings: names and numbers."""
    return digest(signals.encode("utf-8", "surrogatepass") + b"\n" + payload)


def link(previous: str, body: str) -> str:
    """The hash of a row: ``sha256(previous hash + canonical body)``."""
    return digest((previous + body).encode("utf-8", "surrogatepass"))


def columns(body: str) -> dict[str, Plain]:
    """What the searchable columns of a row must hold, by its body.

    Raises:
        ValueError: the body is not the JSON of a row.
    """
    said = decode(body)
    record = said["record"]
    named = record if isinstance(record, dict) else {}
    row = {name: said[name] for name in ("seq", "wall", "run", "role", "token", "settles")}
    row |= {name: named.get(name) for name in ("event", "entry", "incident")}
    return {name: storable(value) for name, value in row.items()}


def storable(value: Plain) -> Plain:
    """The value in a form that a column holds: 64-bit integers, text that is UTF-8."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return hex(value)  # decimal digits would be turned into a rounded float by the column
    return value


def decode(body: str) -> dict[str, Plain]:
    """The object in a row's body.

    Raises:
        ValueError: it is not the JSON object of a row.
    """
    said = json.loads(body)
    if not isinstance(said, dict) or not said.keys() >= {
        "seq",
        "wall",
        "run",
        "role",
        "token",
        "settles",
        "record",
    }:
        raise ValueError("not the JSON object of a row")
    return said


def parse(text: str) -> Plain:
    """Plain JSON from its text.

    Raises:
        ValueError: it is no JSON.
    """
    return cast("Plain", json.loads(text))


def row_of(body: str, row_hash: str) -> Row:
    """The row as its reader sees it.

    Raises:
        ValueError, KeyError, TypeError: the body was changed into something else.
    """
    said = cast("dict[str, Any]", decode(body))
    return Row(
        seq=said["seq"],
        wall=said["wall"],
        run=said["run"],
        role=said["role"],
        token=said["token"],
        settles=said["settles"],
        record=Record(**said["record"]),
        hash=row_hash,
    )


def waiting_row(draft: Draft) -> Row:
    """A record that is not in the chain yet, as its reader sees it: without a place (seq 0) or a hash."""
    record = draft.record or Record("run", "", None, 0, 0.0)
    return Row(0, draft.wall, draft.run, draft.role, draft.token, draft.settles, record, "")


def to_line(draft: Draft) -> str:
    """A draft as one line of the spool. Readings never come here: they are not spooled."""
    return canonical(
        {
            "wall": draft.wall,
            "run": draft.run,
            "role": draft.role,
            "token": draft.token,
            "settles": draft.settles,
            "record": None if draft.record is None else _plain(draft.record),
            "documents": [asdict(d) for d in draft.documents],
        }
    )


def from_line(line: str) -> Draft:
    """The draft in a line of the spool.

    Raises:
        ValueError, KeyError, TypeError: the line is torn.
    """
    said = json.loads(line)
    record = said.pop("record")
    documents = tuple(Document(**d) for d in said.pop("documents"))
    return Draft(**said, record=None if record is None else Record(**record), documents=documents)


def _plain(record: Record) -> Mapping[str, object]:
    """The record as an object whose envelope always survives, whatever ``data`` holds."""
    text = canonical(record.data)
    return {
        "event": record.event,
        "entry": record.entry,
        "incident": record.incident,
        "tick": record.tick,
        "seconds": record.seconds,
        "data": json.loads(text),
    }


def _short_repr(value: object) -> str:
    try:
        return repr(value)[:_LONGEST_REPR]
    except Exception as error:  # a foreign __repr__ may raise anything
        return f"<{type(value).__name__}: its repr raised {type(error).__name__}>"
