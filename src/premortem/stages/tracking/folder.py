"""What lies in the folder of one spool, and who may touch it.

run.json              which run this is and where its records go
spool.jsonl           the records
cursor-SINK.json      how far a sink has them, durable
status-SINK.json      how sending goes, for whoever watches
rejected-SINK.jsonl   records that a tracker will never take
mode, acting          online, offline or local: what was asked for, what the sender does
*.lock, sender.log    who is at work; what the sender and the trackers' clients print
offline/              what trackers write while they are offline
"""

from __future__ import annotations

import fcntl
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from premortem.core.errors import ConfigError
from premortem.stages.tracking.record import checked, damaged, sealed

Mode = Literal["online", "offline", "local"]
MODES: tuple[Mode, ...] = ("online", "offline", "local")
OFFLINE = "-offline"
LOCAL_ONLY = frozenset({"tensorboard"})
"""Backends that write to a disk of one's own: going offline changes nothing for them."""


class RunInfo(msgspec.Struct, frozen=True):
    """Which run a spool belongs to. ``backends``: where each tracker is, by its name; never with a password."""

    id: str
    project: str
    name: str
    began: float
    backends: dict[str, str]
    params: dict[str, str] = {}


class Status(msgspec.Struct):
    """How one sink stands. ``run`` is the tracker's own name of the run, empty until it gave one."""

    pid: int = 0
    wall: float = 0.0
    sent: int = 0
    failures: int = 0
    refused: bool = False
    fault: str = ""
    run: str = ""
    num_rejected: int = 0
    num_damaged: int = 0
    done: bool = False


@dataclass(frozen=True, slots=True)
class Folder:
    """Paths and small files of one spool."""

    path: Path

    @property
    def spool(self) -> Path:
        """The records."""
        return self.path / "spool.jsonl"

    @property
    def log(self) -> Path:
        """What the sender and the trackers' clients print."""
        return self.path / "sender.log"

    def cursor(self, sink: str) -> Path:
        """How far a sink is."""
        return self.path / f"cursor-{sink}.json"

    def rejected(self, sink: str) -> Path:
        """What a sink will never take."""
        return self.path / f"rejected-{sink}.jsonl"

    @property
    def offline(self) -> Path:
        """Where trackers write while they are offline."""
        return self.path / "offline"

    def write_run(self, run: RunInfo) -> None:
        """Keep which run this is; raises ``OSError``."""
        put(self.path / "run.json", sealed(msgspec.json.encode(run)), durable=True)

    def read_run(self) -> RunInfo:
        """Which run this is.

        Raises:
            ConfigError: no spool here.
            StageError: its ``run.json`` is damaged.
        """
        path = self.path / "run.json"
        try:
            body = checked(path.read_bytes().rstrip(b"\n"))
        except FileNotFoundError:
            raise ConfigError(f"{self.path}: found no spool (run.json), expected the folder of one run") from None
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror}); give this user the right to it") from None
        try:
            return msgspec.json.decode(body or b"", type=RunInfo)
        except msgspec.DecodeError:
            raise damaged(path, "found no whole description of a run") from None

    @property
    def mode(self) -> Mode:
        """What was asked for last; online when nothing was."""
        return self._read_mode("mode") or "online"

    def choose(self, mode: Mode) -> None:
        """Ask for a mode; raises ``OSError``."""
        put(self.path / "mode", mode.encode("ascii") + b"\n")

    @property
    def acting(self) -> Mode | None:
        """The mode that the sender is in, by its own word."""
        return self._read_mode("acting")

    def act(self, mode: Mode) -> None:
        """The sender's word; raises ``OSError``."""
        put(self.path / "acting", mode.encode("ascii") + b"\n")

    def _read_mode(self, name: str) -> Mode | None:
        try:
            text = (self.path / name).read_text("ascii").strip()
        except (OSError, UnicodeDecodeError):
            return None
        return next((mode for mode in MODES if mode == text), None)

    def sinks(self, mode: Mode) -> list[str]:
        """Where records are owed in a mode. Raises what :meth:`read_run` does."""
        if mode == "local":
            return []
        names = self.read_run().backends
        return [n + OFFLINE if mode == "offline" and n not in LOCAL_ONLY else n for n in names]

    def status(self, sink: str) -> Status:
        """How a sink stands; an empty one before it has said anything."""
        try:
            return msgspec.json.decode((self.path / f"status-{sink}.json").read_bytes(), type=Status)
        except (OSError, msgspec.DecodeError):
            return Status()

    def write_status(self, sink: str, status: Status) -> None:
        """Say how a sink stands; raises ``OSError``."""
        put(self.path / f"status-{sink}.json", msgspec.json.encode(status))

    def hold(self, who: str) -> int | None:
        """Take the lock of the ``writer``, the ``sender`` or a sink; it goes with this process.

        Returns a descriptor to close, ``None`` when another process has it.
        """
        fd = os.open(self.path / f"{who}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            return None
        return fd

    def is_held(self, who: Literal["writer", "sender"]) -> bool:
        """Whether another process has the lock; never ask in the process that holds it, which would lose it."""
        try:
            fd = os.open(self.path / f"{who}.lock", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(fd)
        return False


def put(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Replace a file at once; a reader sees the old or the new one whole. Raises ``OSError``."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def find(root: Path) -> list[Folder]:
    """The spool in ``root``, or those one level below, oldest name first.

    Raises:
        ConfigError: there is none.
    """
    if (root / "run.json").is_file():
        return [Folder(root)]
    try:
        found = [Folder(path.parent) for path in sorted(root.glob("*/run.json"))]
    except OSError as error:
        raise ConfigError(f"{root}: cannot be read ({error.strerror}); give this user the right to it") from None
    if not found:
        raise ConfigError(f"{root}: found no spool, expected the folder of a run, or one that holds such folders")
    return found
