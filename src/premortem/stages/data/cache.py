"""A cache that never hands out a byte which is not the one that was fetched.

Content-addressed: `blobs/<sha256><suffixes>`, written under a new name, flushed, hashed, renamed. A manifest for
each set names its files with sha256 and size, and its own hash. Every read hashes every file; what is wrong is
moved to `aside/` and counts as absent. Two processes may use one folder at once. POSIX only.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

from premortem.core.errors import StageError
from premortem.stages.data.source import Source

_CHUNK = 1 << 20
_POLL_S = 0.05
_SUFFIXES = re.compile(r"(?:\.[A-Za-z0-9]{1,10}){1,2}$")


@dataclass(frozen=True, slots=True)
class Kept:
    """One file: its name at the source, its content's sha256 and size in bytes."""

    name: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A set in the cache: its files, the mirror they came from, and whether their hashes were the source's own."""

    files: tuple[Kept, ...]
    mirror: str
    is_verified: bool
    fetched: str


class Cache:
    """A folder; made when it is first written to. Raises StageError where it cannot be used."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).expanduser()

    def prepare(self) -> None:
        """Make the folder; raises StageError where that cannot be."""
        with self._usable():
            self.folder.mkdir(parents=True, exist_ok=True)

    # --- reading ------------------------------------------------------------------------------

    def read(self, source: Source) -> Entry | None:
        """The set, every file hashed anew; None where it is absent or any byte of it is wrong."""
        entry = self._manifest(source)
        if entry is None:
            return None
        right = [self.holds(kept) for kept in entry.files]  # all are asked: each wrong one goes aside
        return entry if all(right) else None

    def holds(self, kept: Kept) -> bool:
        """Whether the file is there and right; a wrong one is moved aside."""
        blob = self.blob(kept)
        try:
            right = blob.stat().st_size == kept.size and sha256_of(blob) == kept.sha256
        except OSError:
            return False
        if not right:
            self._put_aside(blob)
        return right

    def blob(self, kept: Kept) -> Path:
        """Where the file lies, or would."""
        match = _SUFFIXES.search(kept.name)
        return self.folder / "blobs" / kept.sha256[:2] / f"{kept.sha256}{match[0] if match else ''}"

    def _manifest(self, source: Source) -> Entry | None:
        path = self._manifest_path(source)
        try:
            row = json.loads(path.read_bytes())
            told, content = row["sha256"], row["entry"]
            if hashlib.sha256(_canonical(content)).hexdigest() != told:
                raise ValueError("its hash is another")
            files = tuple(Kept(**kept) for kept in content.pop("files"))
            return Entry(files=files, **content)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StageError(f"{path}: the data cache cannot be read: {error.strerror}; give another folder") from error
        except (ValueError, KeyError, TypeError):
            self._put_aside(path)
            return None

    # --- writing ------------------------------------------------------------------------------

    def adopt(self, fetched: Path, name: str) -> Kept:
        """Take a fetched file over as a blob: flushed, hashed, renamed into place."""
        kept = Kept(name, sha256_of(fetched), fetched.stat().st_size)
        with self._usable():
            blob = self.blob(kept)
            blob.parent.mkdir(parents=True, exist_ok=True)
            _flush(fetched)
            fetched.chmod(0o444)
            fetched.replace(blob)
            _flush(blob.parent)
        return kept

    def adopt_copy(self, file: Path) -> Kept:
        """Take over a copy of a file that stays where it is."""
        with self._usable():
            part = self.part(f"{file}:{uuid4().hex}")
            shutil.copyfile(file, part)
        return self.adopt(part, file.name)

    def commit(self, source: Source, files: tuple[Kept, ...], mirror: str, *, is_verified: bool) -> Entry:
        """Name the files as the set: from now on a read finds it."""
        entry = Entry(files, mirror, is_verified, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
        content = asdict(entry) | {"files": [asdict(kept) for kept in files]}
        row = {"set": str(source), "sha256": hashlib.sha256(_canonical(content)).hexdigest(), "entry": content}
        path = self._manifest_path(source)
        with self._usable():
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = path.with_name(f".{path.name}.{uuid4().hex}")
            fresh.write_text(json.dumps(row, indent=1), "utf-8")
            _flush(fresh)
            fresh.replace(path)
            _flush(path.parent)
        return entry

    def part(self, what: str) -> Path:
        """Where a download of `what` (an address) is written until it is whole; the same at the next try."""
        with self._usable():
            folder = self.folder / "parts"
            folder.mkdir(parents=True, exist_ok=True)
        return folder / hashlib.sha256(what.encode()).hexdigest()

    @contextlib.contextmanager
    def lock(self, source: Source, patience_s: float) -> Iterator[None]:
        """Only one process or thread fetches a set at a time; raises StageError after so many seconds."""
        with self._usable():
            folder = self.folder / "locks"
            folder.mkdir(parents=True, exist_ok=True)
            stream = (folder / self._manifest_path(source).stem).open("ab")
        with stream:
            deadline = time.monotonic() + patience_s
            while True:
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise StageError(
                            f"{source}: another process has held it for {patience_s:g} s; end that one, or wait"
                        ) from None
                    time.sleep(_POLL_S)
            yield

    def _manifest_path(self, source: Source) -> Path:
        which = "\0".join((source.name, source.config, source.split, str(source.max_files)))
        slug = re.sub(r"[^A-Za-z0-9]+", "-", str(source)).strip("-")[:60]
        return self.folder / "sets" / f"{slug}-{hashlib.sha256(which.encode()).hexdigest()[:12]}.json"

    def _put_aside(self, path: Path) -> None:
        with self._usable():
            aside = self.folder / "aside"
            aside.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # another process may have moved it first
                path.replace(aside / f"{path.name}.{uuid4().hex[:8]}")

    @contextlib.contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StageError(
                f"{self.folder}: the data cache cannot be used: {error.strerror or error}; free space, or give "
                "another folder"
            ) from error


def sha256_of(path: Path) -> str:
    """The hash of a file's content, in hex; raises the OSError that stops it."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _canonical(content: object) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
